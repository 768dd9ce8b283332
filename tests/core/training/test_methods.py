"""Preferences, ratings, rewards and raw text: each moves what it is to move, and refuses what cannot work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from llmmagic.core.config import MethodName, TrainConfig
from llmmagic.core.errors import ConfigError, DataFormatError, DataNotFoundError, TrainingError
from llmmagic.core.events import Notice, TrainEval, TrainFinished, TrainStarted, TrainStep
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelledOperation, CancelToken
from llmmagic.core.training.run import train
from tests.core.training.conftest import Events, Load

PAIRS = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "Go away now!"} for i in range(12)]
RATED = [
    {"prompt": f"What is {i}?", "completion": f"It is {i}." if i % 2 else "Go away now!", "label": bool(i % 2)}
    for i in range(12)
]
PROMPTS = [{"prompt": f"What is {i}?", "answer": str(i)} for i in range(12)]
TEXT = "The cat sat on the mat, and the dog lay beside it. "


def lower_case(completions: list[str], **columns: Any) -> list[float]:
    """The share of bytes that are lower-case letters: about a tenth of what random weights say."""
    return [sum(char.islower() and char.isascii() for char in text) / 16 for text in completions]


def run(
    loaded: LoadedModel, events: Events, method: MethodName, data: Any, *, eval_source: Any = None, **settings: Any
) -> TrainFinished:
    settings["options"] = {"learning_rate": 5e-3, "warmup_steps": 0, "max_steps": 6, **settings.get("options", {})}
    config = TrainConfig(**{"name": "mine", "method": method, **settings})
    result = train(loaded, data, config, eval_source=eval_source, emit=events.append, cancel=CancelToken())
    assert isinstance(result, TrainFinished)
    return result


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = loaded.model(input_ids=torch.arange(3, 40)[None], use_cache=False).logits
    return result


def test_dpo_widens_the_margin_between_chosen_and_rejected(tiny: LoadedModel, events: Events) -> None:
    base, dropout = logits(tiny), [m.p for m in tiny.model.modules() if isinstance(m, torch.nn.Dropout)]
    finished = run(tiny, events, "dpo", PAIRS[:8], eval_source=PAIRS[8:], options={"eval_steps": 3})
    evals = [e for e in events if isinstance(e, TrainEval)]
    assert [e.step for e in evals] == [0, 3, 6]
    assert evals[0].loss == pytest.approx(math.log(2))  # the adapter changes nothing yet
    assert evals[0].metrics == {"margin": 0.0, "accuracy": 0.0}
    assert evals[0].perplexity is None
    assert evals[-1].metrics["margin"] > 0.5
    assert evals[-1].metrics["accuracy"] == 1.0
    assert finished.eval_loss_after is not None
    assert finished.eval_loss_after < 0.5
    steps = [e for e in events if isinstance(e, TrainStep)]
    assert steps[-1].metrics["margin"] > steps[0].metrics["margin"] == 0.0
    assert all(step.tokens_per_s > 0 for step in steps)
    # The reference is the model with the adapter off, which is what it was; and TRL has left nothing behind.
    assert tiny.info.adapters == ("mine",)
    assert [m.p for m in tiny.model.get_base_model().modules() if type(m) is torch.nn.Dropout and m.p == 0.0] == dropout
    assert not any(p.requires_grad for p in tiny.model.parameters())
    with tiny.model.disable_adapter():
        assert torch.equal(logits(tiny), base)


def test_kto_moves_the_log_odds_of_good_and_bad_ratings_apart(tiny: LoadedModel, events: Events) -> None:
    run(tiny, events, "kto", RATED[:8], eval_source=RATED[8:])
    before, after = (e for e in events if isinstance(e, TrainEval))
    assert before.metrics == {"reward_good": 0.0, "reward_bad": 0.0, "margin": 0.0}
    assert after.metrics["reward_good"] > 0.1
    assert after.metrics["reward_bad"] < -0.1
    assert after.metrics["margin"] > 0.5
    assert {"margin", "kl"} <= set(next(e for e in reversed(events) if isinstance(e, TrainStep)).metrics)


def test_grpo_raises_the_reward_of_its_own_answers(tiny: LoadedModel, events: Events) -> None:
    with torch.no_grad():  # as they come, the embeddings leave every token about as likely, whatever an adapter does
        tiny.model.get_input_embeddings().weight.mul_(10)
    options = {"max_steps": 10, "max_completion_length": 16, "learning_rate": 1e-2, "num_generations": 8}
    options |= {"per_device_train_batch_size": 16, "lr_scheduler_type": "constant"}
    run(tiny, events, "grpo", PROMPTS, eval_source=PROMPTS, reward=lower_case, options=options)
    before, after = (e for e in events if isinstance(e, TrainEval))
    assert after.metrics["reward"] > before.metrics["reward"] + 0.3
    assert after.loss == -after.metrics["reward"]
    steps = [e for e in events if isinstance(e, TrainStep)]
    assert len(steps) == 10
    assert all(0 < step.metrics["completion_tokens"] <= 16 for step in steps)
    assert sum(s.metrics["reward"] for s in steps[-3:]) > sum(s.metrics["reward"] for s in steps[:3]) + 0.5


def test_reward_functions_get_what_the_data_holds(tiny: LoadedModel, events: Events) -> None:
    seen: list[tuple[Any, Any, Any]] = []

    def look(prompts: list[Any], completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
        seen.extend(zip(prompts, completions, answer, strict=True))
        return [float(place) for place in range(len(completions))]

    options = {"max_steps": 1, "max_completion_length": 4}
    run(tiny, events, "grpo", PROMPTS[:2], reward=look, options=options)
    assert {(prompt, answer) for prompt, _, answer in seen} == {("What is 0?", "0"), ("What is 1?", "1")}
    assert all(isinstance(completion, str) for _, completion, _ in seen)
    seen.clear()
    chats = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}], "answer": "a"}
    ] * 2
    run(tiny, events, "grpo", chats, reward=[look], options=options)
    prompt, completion, _ = seen[-1]
    assert prompt == [{"role": "user", "content": "Hi"}]
    assert completion[0]["role"] == "assistant"


def test_pretraining_from_scratch_lowers_held_out_perplexity(load: Load, tiny_folder: Path, events: Events) -> None:
    tiny = load(tiny_folder)
    settings: dict[str, Any] = {"peft": "none", "options": {"max_steps": 20, "max_length": 128}}
    finished = run(tiny, events, "pretrain", [{"text": TEXT * 30}], eval_source=[{"text": TEXT * 2}], **settings)
    before, after = (e for e in events if isinstance(e, TrainEval))
    assert before.perplexity is not None
    assert after.perplexity is not None
    assert after.perplexity < before.perplexity / 4
    started = next(e for e in events if isinstance(e, TrainStarted))
    assert (started.full, started.method) == (True, "pretrain")
    assert started.trainable_parameters == started.all_parameters == tiny.info.parameters
    # It is a model folder that loads by itself, and what is in memory is it.
    again = load(Path(finished.adapter_dir))
    assert torch.equal(logits(again), logits(tiny))
    assert tiny.info.model_id == str(Path(finished.adapter_dir).resolve())
    assert not any(p.requires_grad for p in tiny.model.parameters())


def test_documents_end_with_an_end_token_and_lose_nothing(tiny: LoadedModel) -> None:
    from llmmagic.core.training.methods.pretrain import _pieces, document_ids

    ids = document_ids(tiny.tokenizer, "abc")
    assert ids[-1] == tiny.tokenizer.eos_token_id
    assert len(ids) == 4
    pieces = list(_pieces(list(range(10)), 4))
    assert pieces == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]  # every token but the first is predicted once
    assert list(_pieces([1, 2], 4)) == [[1, 2]]


def test_a_text_file_is_a_document(tmp_path: Path) -> None:
    from llmmagic.core.training.methods.pretrain import read_documents

    for name, text in (("b.txt", "two\n\nlines"), ("a.txt", "one")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_documents(str(tmp_path / "b.txt"), None).rows == [{"text": "two\n\nlines"}]
    assert [row["text"] for row in read_documents(tmp_path, None).rows] == ["one", "two\n\nlines"]


def test_a_new_model_of_a_given_config_takes_the_place_of_the_loaded_one(
    tiny: LoadedModel, events: Events, load: Load
) -> None:
    model, info = tiny.model, tiny.info
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "llama", "num_key_value_heads": 2, "max_position_embeddings": 64, **sizes}
    with pytest.raises(ConfigError, match=r"A llama has no setting 'hidden_sise'. Did you mean 'hidden_size'"):
        run(tiny, events, "pretrain", [TEXT], model_config={**config, "hidden_sise": 3})
    assert tiny.model is model
    assert tiny.info is info
    finished = run(tiny, events, "pretrain", [TEXT * 10], model_config=config, options={"max_steps": 2})
    assert (tiny.info.layers, tiny.info.hidden_size, tiny.info.context_window) == (1, 32, 64)
    assert load(Path(finished.adapter_dir)).info.hidden_size == 32


@pytest.mark.parametrize(
    ("method", "data", "settings", "error", "message"),
    [
        ("dpo", [{"prompt": "a", "chosen": "b", "rejected": "b"}], {}, DataFormatError, "1 of 1 pairs have the same"),
        ("dpo", [{"prompt": "a", "chosen": "", "rejected": "b"}], {}, DataFormatError, "Row 1 has no answer: 'chosen'"),
        ("dpo", [{"prompt": "", "chosen": "a", "rejected": "b"}], {}, DataFormatError, "Row 1 has no prompt"),
        ("dpo", [{"question": "a", "answer": "b"}], {}, DataFormatError, "has no chosen and no rejected: its columns"),
        ("kto", [RATED[1], RATED[3]], {}, DataFormatError, "All 2 ratings are good: kto learns from the difference"),
        ("kto", [{**RATED[1], "label": "maybe"}], {}, DataFormatError, "Row 1 has the label 'maybe'"),
        ("grpo", PROMPTS, {}, ConfigError, "grpo needs a reward function"),
        ("grpo", PROMPTS, {"reward": 3}, ConfigError, "A reward must be a function, got a int"),
        ("grpo", PROMPTS[:1], {"reward": lower_case}, DataFormatError, "1 prompts are fewer than the 2"),
        ("grpo", PROMPTS, {"reward": "nosuch.py:f"}, DataNotFoundError, "There is no file 'nosuch.py'"),
        ("pretrain", [{"words": "x"}], {}, DataFormatError, "no column of raw text: its columns are words"),
        ("dpo", PAIRS, {"peft": "none"}, ConfigError, "The method dpo trains an adapter"),
        ("sft", PAIRS, {"reward": lower_case}, ConfigError, "The method sft takes no reward functions"),
        ("dpo", PAIRS, {"recipe": "tutorial"}, ConfigError, "'tutorial' is one of the method sft"),
        ("dpo", PAIRS, {"options": {"bta": 1}}, ConfigError, r"no training setting 'bta'. Did you mean 'beta'\?"),
        ("sft", PAIRS, {"options": {"beta": 1}}, ConfigError, "It is a setting of the method dpo and kto and grpo"),
        (
            "kto",
            RATED,
            {"options": {"sync_ref_model": True}},
            ConfigError,
            "the reference is the model with the adapter",
        ),
        ("grpo", PROMPTS, {"reward": lower_case, "options": {"num_generations": 3}}, ConfigError, "divisible by num_g"),
        ("dpo", PAIRS, {"allow": ("one-sided",)}, ConfigError, "There is no finding 'one-sided' to allow"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_touched(
    tiny: LoadedModel,
    events: Events,
    method: MethodName,
    data: Any,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    model = tiny.model
    with pytest.raises(error, match=message):
        run(tiny, events, method, data, **settings)
    assert tiny.model is model
    assert tiny.info.adapters == ()
    assert not [e for e in events if isinstance(e, TrainStep)]


def test_a_reward_that_fails_or_says_nothing_is_found_on_a_probe(tiny: LoadedModel, events: Events) -> None:
    def broken(completions: list[str], **columns: Any) -> list[float]:
        return [1 / len(text) for text in completions]

    def short(completions: list[str], **columns: Any) -> list[float]:
        return [1.0]

    with pytest.raises(TrainingError, match=r"broken failed: ZeroDivisionError: division by zero.* made-up answers"):
        run(tiny, events, "grpo", PROMPTS, reward=broken)
    with pytest.raises(TrainingError, match="short gave 1 numbers for 8 answers"):
        run(tiny, events, "grpo", PROMPTS, reward=short)
    config = TrainConfig(method="grpo", reward=(lambda completions, **columns: [0.5] * len(completions),))
    train(tiny, PROMPTS, config, dry_run=True, emit=events.append, cancel=CancelToken())
    (notice,) = [e for e in events if isinstance(e, Notice) and e.topic == "constant-reward"]
    assert "every answer got the same from <lambda> (0.5)" in notice.text


def test_a_reward_that_fails_in_the_run_ends_it_with_its_own_words(tiny: LoadedModel, events: Events) -> None:
    base, calls = logits(tiny), 0

    def fails_later(completions: list[str], **columns: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyError("score")
        return [float(len(text)) for text in completions]

    with pytest.raises(TrainingError, match="fails_later failed: KeyError: 'score'"):
        run(tiny, events, "grpo", PROMPTS, reward=fails_later, options={"max_completion_length": 4})
    assert torch.equal(logits(tiny), base)
    assert tiny.info.adapter is None


def test_pairs_may_share_their_prompt_in_the_answers(tiny: LoadedModel, events: Events) -> None:
    user, good, bad = (
        {"role": r, "content": c} for r, c in (("user", "Hi"), ("assistant", "Yes"), ("assistant", "No"))
    )
    rows = [{"prompt": "ignored", "chosen": [user, good], "rejected": [user, bad]}]
    run(tiny, events, "dpo", rows, options={"max_steps": 1})
    (started,) = [e for e in events if isinstance(e, TrainStarted)]
    assert (started.data.rows, started.data.format, started.method) == (1, "preferences", "dpo")
    other = {**rows[0], "rejected": [{"role": "user", "content": "Hello"}, bad]}
    with pytest.raises(DataFormatError, match="Row 1: chosen and rejected differ before their last message"):
        run(tiny, events, "dpo", [other])


def test_a_preference_run_stops_resumes_and_ends_as_if_it_had_not(
    load: Load, tiny_folder: Path, tmp_path: Path
) -> None:
    def options(name: str) -> dict[str, Any]:
        return {"output_dir": str(tmp_path / name), "max_steps": 5, "learning_rate": 5e-3}

    whole, half, rest = (load(tiny_folder) for _ in range(3))
    run(whole, Events(), "dpo", PAIRS, options=options("whole"))
    cancel = CancelToken()

    def emit(event: Any) -> None:
        if isinstance(event, TrainStep) and event.step == 2:
            cancel.request()

    config = TrainConfig(name="mine", method="dpo", options={"warmup_steps": 0, **options("half")})
    stopped = train(half, PAIRS, config, emit=emit, cancel=cancel)
    assert isinstance(stopped, TrainFinished)
    assert (stopped.reason, stopped.steps) == ("cancelled", 3)
    run(rest, Events(), "dpo", PAIRS, resume=True, options=options("half"))
    assert torch.equal(logits(rest), logits(whole))
    with pytest.raises(TrainingError, match=r"no checkpoint|method changed since"):
        run(rest, Events(), "kto", RATED, resume=True, options=options("half"))


def test_a_forced_cancel_before_the_first_step_leaves_the_model(tiny: LoadedModel) -> None:
    cancel = CancelToken()

    def emit(event: Any) -> None:
        if isinstance(event, TrainStarted):
            cancel.request(force=True)

    model = tiny.model
    with pytest.raises(CancelledOperation):
        train(tiny, RATED, TrainConfig(method="kto"), emit=emit, cancel=cancel)
    assert tiny.model is model
