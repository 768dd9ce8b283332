from __future__ import annotations

import copy
import math
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import ConfigError, DataFormatError, TrainingError
from llmmagic.core.events import Notice, TrainEval, TrainFinished, TrainStarted, TrainStep
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelledOperation, CancelToken
from llmmagic.core.training.measure import evaluate
from llmmagic.core.training.run import train
from tests.core.training.conftest import Events, Load

ROWS = [{"question": f"What is number {i}?", "answer": f"It is {'odd' if i % 2 else 'even'}."} for i in range(16)]


def run(
    loaded: LoadedModel, events: Events, data: Any = ROWS, *, cancel: CancelToken | None = None, **settings: Any
) -> TrainFinished:
    eval_source = settings.pop("eval_source", None)
    config = TrainConfig(**{"name": "numbers", **settings})
    result = train(loaded, data, config, eval_source=eval_source, emit=events.append, cancel=cancel or CancelToken())
    assert isinstance(result, TrainFinished)
    return result


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = loaded.model(input_ids=torch.arange(3, 40)[None], use_cache=False).logits
    return result


def state(loaded: LoadedModel) -> dict[str, Any]:
    """What a trainer must leave as it was."""
    model = loaded.model
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        "training": model.training,
        "config": copy.deepcopy(base.config.to_dict()),
        "generation": base.generation_config.to_dict(),
        "pad": loaded.tokenizer.pad_token,
        "forward": "forward" in vars(base) or "forward" in vars(model),
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in base.modules()),
        "grad": [name for name, p in model.named_parameters() if p.requires_grad and "lora" in name],
        "checkpointing": base.is_gradient_checkpointing
        if not hasattr(base, "is_activation_checkpointing")
        else base.is_activation_checkpointing,
    }


def test_a_run_tells_every_step_and_leaves_an_adapter(tiny: LoadedModel, events: Events) -> None:
    before = state(tiny)
    base_logits = logits(tiny)
    finished = run(
        tiny,
        events,
        eval_source=ROWS[:4],
        options={"max_steps": 8, "eval_steps": 4, "learning_rate": 1e-2},
    )
    started = events.of(TrainStarted)[0]
    assert isinstance(started, TrainStarted)
    assert (started.total_steps, started.batch_size, started.epochs) == (8, 4, 2.0)
    assert started.data.rows == 16
    assert started.data.eval_rows == 4
    assert started.data.format == "question/answer"
    assert started.settings["lora_r"] == "16"
    assert started.settings["target_modules"] == "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"

    steps = [e for e in events if isinstance(e, TrainStep)]
    assert [s.step for s in steps] == list(range(1, 9))
    assert all(s.loss is not None and s.grad_norm is not None and s.memory_bytes > 0 for s in steps)
    assert all(s.tokens_per_s > 0 for s in steps)
    assert steps[-1].eta_s == 0 < steps[0].eta_s

    evals = [e for e in events if isinstance(e, TrainEval)]
    assert [e.step for e in evals] == [0, 4, 8]
    assert evals[-1].loss < evals[0].loss
    assert evals[0].perplexity == pytest.approx(math.exp(evals[0].loss))
    assert (finished.eval_loss_before, finished.eval_loss_after) == (evals[0].loss, evals[-1].loss)
    assert (finished.reason, finished.steps, finished.first_loss) == ("completed", 8, steps[0].loss)

    assert tiny.info.adapter == "numbers"
    assert tiny.info.adapters == ("numbers",)
    assert state(tiny) == before
    assert (logits(tiny) - base_logits).abs().max() > 1e-3
    with tiny.model.disable_adapter():
        assert torch.equal(logits(tiny), base_logits)


def test_the_saved_adapter_gives_the_same_logits(
    tiny: LoadedModel, events: Events, load: Load, tiny_folder: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    from llmmagic.core.training.guard import lent_model

    finished = run(tiny, events, options={"max_steps": 4, "learning_rate": 1e-2, "output_dir": str(tmp_path / "out")})
    assert finished.adapter_dir == str(tmp_path / "out")
    fresh = load(tiny_folder)
    with lent_model(fresh):
        fresh.model = PeftModel.from_pretrained(fresh.model, finished.adapter_dir)
    torch.testing.assert_close(logits(fresh), logits(tiny), atol=1e-5, rtol=0)


def test_training_again_goes_on_and_another_name_starts_anew(tiny: LoadedModel, events: Events) -> None:
    options = {"max_steps": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    first = run(tiny, events, options=options)
    after_first = logits(tiny)
    again = run(tiny, events, options=options)
    assert again.first_loss is not None
    assert first.first_loss is not None
    assert again.first_loss < first.first_loss  # it did not start from zero
    other = run(tiny, events, name="other", options=options)
    assert other.first_loss == pytest.approx(first.first_loss, rel=1e-5)
    assert tiny.info.adapters == ("numbers", "other")
    assert tiny.info.adapter == "other"
    tiny.model.set_adapter("numbers", inference_mode=True)
    assert (logits(tiny) - after_first).abs().max() > 1e-3


def test_a_name_that_peft_cannot_tell_from_its_own_is_refused(tiny: LoadedModel, events: Events) -> None:
    with pytest.raises(ConfigError, match="cannot be called 'lora'"):
        run(tiny, events, name="lora")


def test_other_lora_settings_for_an_adapter_that_exists_are_refused(tiny: LoadedModel, events: Events) -> None:
    run(tiny, events, options={"max_steps": 1})
    before = logits(tiny)
    with pytest.raises(ConfigError, match="'numbers' exists with r=16 and goes on as it is; 8 cannot be applied"):
        run(tiny, events, options={"max_steps": 1}, lora={"r": 8})
    assert torch.equal(logits(tiny), before)


def test_a_cancel_stops_after_the_step_and_keeps_the_adapter(tiny: LoadedModel, events: Events) -> None:
    cancel = CancelToken()

    def emit(event: Any) -> None:
        events.append(event)
        if isinstance(event, TrainStep) and event.step == 3:
            cancel.request()

    config = TrainConfig(name="numbers", options={"max_steps": 100, "learning_rate": 1e-2})
    finished = train(tiny, ROWS, config, emit=emit, cancel=cancel)
    assert isinstance(finished, TrainFinished)
    assert (finished.reason, finished.steps) == ("cancelled", 4)  # step 4 had begun when it was asked
    assert tiny.info.adapter == "numbers"
    assert (Path(finished.adapter_dir) / "adapter_model.safetensors").is_file()


def test_a_forced_cancel_leaves_the_step_and_keeps_the_last_whole_one(tiny: LoadedModel, events: Events) -> None:
    before = state(tiny)
    cancel = CancelToken()
    calls = 0

    def count(module: Any, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 6:
            cancel.request(force=True)

    handle = tiny.model.model.layers[0].register_forward_pre_hook(count)
    finished = run(tiny, events, cancel=cancel, options={"max_steps": 100, "learning_rate": 1e-2})
    handle.remove()
    assert (finished.reason, finished.steps) == ("cancelled", 5)
    assert state(tiny) == before
    assert calls == 6  # the sixth forward pass was left between its two layers
    assert not any(p.grad is not None for p in tiny.model.parameters())


def test_a_cancel_before_the_first_step_leaves_everything_as_it_was(tiny: LoadedModel, events: Events) -> None:
    cancel = CancelToken()

    def emit(event: Any) -> None:
        if isinstance(event, TrainStarted):
            cancel.request(force=True)

    before, model = logits(tiny), tiny.model
    with pytest.raises(CancelledOperation):
        train(tiny, ROWS, TrainConfig(options={"max_steps": 5}), emit=emit, cancel=cancel)
    assert tiny.model is model
    assert tiny.info.adapter is None
    assert torch.equal(logits(tiny), before)


def test_packed_rows_fill_sequences_and_do_not_see_each_other(tiny: LoadedModel, events: Events) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def look(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if kwargs.get("position_ids") is not None:
            seen.append((kwargs["input_ids"], kwargs["position_ids"], output.last_hidden_state.detach()))

    inner = tiny.model.model
    hook = inner.register_forward_hook(look, with_kwargs=True)
    options = {"max_steps": 1, "packing": True, "max_length": 200, "per_device_train_batch_size": 2}
    run(tiny, events, options=options, lora={"lora_dropout": 0.0})
    hook.remove()
    input_ids, position_ids, hidden = seen[-1]  # those before try out whether rows stay apart
    starts = (position_ids[0] == 0).nonzero().flatten().tolist()
    assert len(starts) >= 4  # two sequences of at least two rows each
    with tiny.model.disable_adapter(), torch.no_grad():  # in the first step the adapter did nothing yet
        for start, end in zip(starts, [*starts[1:], input_ids.shape[1]], strict=True):
            alone = inner(input_ids=input_ids[:, start:end]).last_hidden_state
            torch.testing.assert_close(hidden[:, start:end], alone, atol=1e-5, rtol=0)


class Full:
    """Stands in for memory that holds only so many rows."""

    def __init__(self, rows: int, *, from_call: int = 0) -> None:
        self.rows = rows
        self.from_call = from_call
        self.calls = 0

    def __call__(self, module: Any, args: Any, kwargs: Any) -> None:
        self.calls += 1
        rows, places = kwargs["input_ids"].shape[0], kwargs.get("position_ids")
        if rows == 1 and places is not None:  # rows that share a sequence: each begins at position 0
            rows = int((places == 0).sum())
        if self.calls > self.from_call and rows > self.rows:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


def test_when_memory_runs_out_the_batch_is_halved_and_the_run_goes_on(
    tiny: LoadedModel, load: Load, tiny_folder: Path, events: Events, tmp_path: Path
) -> None:
    lora = {"lora_dropout": 0.0}
    options = {"max_steps": 6, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    full = Full(1, from_call=2)
    tiny.model.model.register_forward_pre_hook(full, with_kwargs=True)
    finished = run(tiny, events, options={**options, "output_dir": str(tmp_path / "a")}, lora=lora)
    assert (finished.reason, finished.steps) == ("completed", 6)
    notices = [e.text for e in events if isinstance(e, Notice)]
    assert notices == [
        "Memory ran out: training goes on from step 2 with batches of 2, 2 per step (still 4 rows).",
        "Memory ran out: training goes on from step 2 with batches of 1, 4 per step (still 4 rows).",
    ]
    steps = [e for e in events if isinstance(e, TrainStep)]
    assert [e.step for e in steps] == [1, 2, 3, 4, 5, 6]

    undisturbed, other = Events(), load(tiny_folder)
    run(other, undisturbed, options={**options, "output_dir": str(tmp_path / "b")}, lora=lora)
    expected = [e.loss for e in undisturbed if isinstance(e, TrainStep)]
    assert [e.loss for e in steps] == pytest.approx(expected, rel=1e-4)  # the same rows in the same steps


def test_after_an_error_a_continued_adapter_is_what_it_was(tiny: LoadedModel, events: Events) -> None:
    run(tiny, events, options={"max_steps": 3, "learning_rate": 1e-2})
    before = logits(tiny)
    layers = tiny.model.get_base_model().model
    hook = layers.register_forward_pre_hook(Full(0, from_call=6), with_kwargs=True)
    with pytest.raises(TrainingError, match=r"Memory ran out with one row per batch\. Lower max_length"):
        run(tiny, events, options={"max_steps": 8, "learning_rate": 1e-2})
    hook.remove()
    assert torch.equal(logits(tiny), before)
    assert tiny.info.adapter == "numbers"


def test_a_loss_that_is_no_number_ends_the_run(tiny: LoadedModel, events: Events) -> None:
    before = logits(tiny)
    options = {"max_steps": 20, "learning_rate": 1e20, "max_grad_norm": 0, "lr_scheduler_type": "constant"}
    with pytest.raises(TrainingError, match="loss is no number any more at step"):
        run(tiny, events, options=options)
    assert torch.equal(logits(tiny), before)


def test_bad_data_and_settings_are_found_before_the_model_is_touched(tiny: LoadedModel, events: Events) -> None:
    model = tiny.model
    with pytest.raises(DataFormatError, match="Row 3 has no answer"):
        run(tiny, events, [*ROWS[:2], {"question": "Q", "answer": ""}])
    with pytest.raises(DataFormatError, match="max_length cuts off every answer"):
        run(tiny, events, options={"max_length": 4})
    with pytest.raises(TrainingError, match="nothing to evaluate on"):
        run(tiny, events, options={"eval_steps": 2})
    with pytest.raises(ConfigError, match=r"does not fit the model.*target_modules"):
        run(tiny, events, lora={"target_modules": ["nosuch"]})
    assert tiny.model is model


def test_a_dry_run_says_what_would_be_trained(tiny: LoadedModel, events: Events) -> None:
    before, model = logits(tiny), tiny.model
    started = train(tiny, ROWS, TrainConfig(), dry_run=True, emit=events.append, cancel=CancelToken())
    assert isinstance(started, TrainStarted)
    assert started.total_steps == 4
    assert started.trainable_parameters == 32768
    assert tiny.model is model
    assert torch.equal(logits(tiny), before)


def test_the_tutorials_recipe_on_the_tutorials_data(
    llama2: LoadedModel, events: Events, medquad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama-2 text, a tokenizer that adds BOS, no padding token."""
    monkeypatch.chdir(tmp_path)
    finished = run(
        llama2,
        events,
        str(medquad / "train_llama2_text.jsonl"),
        name="medical",
        recipe="tutorial",
        split="[:40]",
        options={"max_steps": 3, "max_length": 512},
    )
    started = events.of(TrainStarted)[0]
    assert isinstance(started, TrainStarted)
    assert started.data.format == "llama-2 text"
    assert started.settings["target_modules"] == "q_proj, v_proj"
    assert (started.settings["lora_r"], started.settings["lora_alpha"]) == ("64", "16")
    assert [e.topic for e in events if isinstance(e, Notice)] == ["recipe-quantization", "truncated"]
    assert Path(finished.adapter_dir) == Path("results")
    assert (tmp_path / "results" / "adapter_config.json").is_file()
    assert llama2.tokenizer.pad_token is None


def test_with_pad_as_end_token_the_model_still_learns_to_stop(llama2: LoadedModel, events: Events) -> None:
    rows = [{"question": f"Question {i}", "answer": "Yes."} for i in range(8)]
    options = {"max_steps": 60, "learning_rate": 2e-2, "per_device_train_batch_size": 8}
    run(llama2, events, rows, options=options)
    prompt = llama2.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Question 3"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = llama2.model.generate(**prompt, max_new_tokens=20, do_sample=False, pad_token_id=2)
    reply = llama2.tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :])
    assert reply == " Yes. </s>"


def test_evaluate_is_exact_per_token_whatever_the_batches(tiny: LoadedModel, events: Events) -> None:
    from llmmagic.core.training.examples import MASKED, make_examples_like_chat
    from llmmagic.core.training.formats import detect_layout
    from llmmagic.core.training.sources import read_table

    rows = [{"question": "Q" * i, "answer": "A" * (1 + i * i % 37)} for i in range(1, 21)]
    result = evaluate(tiny, rows, limit=18, emit=events.append, cancel=CancelToken())
    table = read_table(rows[:18])
    maker = make_examples_like_chat(tiny.model, tiny.tokenizer, max_length=512)
    losses, tokens = 0.0, 0
    for number, row in enumerate(table.rows, start=1):
        (example,) = maker.make(detect_layout(table).sample(row, number))
        labels = torch.tensor([example.labels])
        count = int((labels[:, 1:] != MASKED).sum())
        with torch.no_grad():
            loss = tiny.model(input_ids=torch.tensor([example.input_ids]), labels=labels).loss
        losses, tokens = losses + float(loss) * count, tokens + count
    assert (result.rows, result.tokens) == (18, tokens)
    assert result.loss == pytest.approx(losses / tokens, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_training_in_a_thread_keeps_random_numbers_of_others_apart(tiny: LoadedModel, events: Events) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    worker = threading.Thread(target=run, args=(tiny, events), kwargs={"options": {"max_steps": 1}})
    worker.start()
    worker.join()
    assert torch.equal(torch.rand(1), expected)
    assert events.of(TrainStep)
