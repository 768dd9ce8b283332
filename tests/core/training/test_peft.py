"""More of PEFT: other kinds of LoRA, several adapters on one base, and all weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmmagic import Session
from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import ConfigError
from llmmagic.core.events import TrainFinished, TrainStarted
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.run import train
from tests.core.training.conftest import Events, Load

ROWS = [{"question": f"What is number {i}?", "answer": f"It is {'odd' if i % 2 else 'even'}."} for i in range(16)]
OPTIONS = {"max_steps": 3, "learning_rate": 1e-2, "warmup_steps": 0}


def run(loaded: LoadedModel, events: Events, **settings: Any) -> TrainFinished:
    settings["options"] = {**OPTIONS, **settings.get("options", {})}
    config = TrainConfig(**{"name": "numbers", **settings})
    result = train(loaded, ROWS, config, eval_source=ROWS[:4], emit=events.append, cancel=CancelToken())
    assert isinstance(result, TrainFinished)
    return result


def logits(loaded: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = loaded.model(input_ids=torch.arange(3, 40)[None], use_cache=False).logits
    return result


@pytest.mark.parametrize(
    ("lora", "saved"),
    [
        ({"use_dora": True}, {"use_dora": True}),
        ({"use_rslora": True, "r": 32}, {"use_rslora": True, "r": 32}),
        ({"target_modules": "all-linear"}, {"r": 16}),
    ],
)
def test_other_kinds_of_lora_learn_and_come_back_the_same(
    tiny: LoadedModel, load: Load, tiny_folder: Path, events: Events, tmp_path: Path, lora: Any, saved: Any
) -> None:
    from llmmagic.core.models.adapters import attach_adapter
    from llmmagic.core.training.guard import lent_model

    base = logits(tiny)
    finished = run(tiny, events, lora=lora, options={"output_dir": str(tmp_path / "numbers")})
    assert finished.eval_loss_before is not None
    assert finished.eval_loss_after is not None
    assert finished.eval_loss_after < finished.eval_loss_before
    config = json.loads((tmp_path / "numbers" / "adapter_config.json").read_text(encoding="utf-8"))
    assert {key: config[key] for key in saved} == saved
    with tiny.model.disable_adapter():
        torch.testing.assert_close(logits(tiny), base, atol=1e-5, rtol=0)
    fresh = load(tiny_folder)
    with lent_model(fresh):  # PEFT uses an old name of transformers, which warns
        attach_adapter(fresh, tmp_path / "numbers")
    torch.testing.assert_close(logits(fresh), logits(tiny), atol=1e-4, rtol=0)


def test_a_start_that_changes_the_base_is_refused(tiny: LoadedModel, events: Events) -> None:
    before, model = logits(tiny), tiny.model
    with pytest.raises(ConfigError, match="init_lora_weights: pissa changes the weights of the base"):
        run(tiny, events, lora={"init_lora_weights": "pissa"})
    assert tiny.model is model
    assert torch.equal(logits(tiny), before)


def test_adapters_lie_side_by_side_on_one_base(tmp_path: Path) -> None:
    session = Session()
    session.load("tiny-random").wait()
    losses = {}
    for name in ("first", "second"):
        options = {**OPTIONS, "seed": len(name), "output_dir": str(tmp_path / name)}
        finished = session.train(ROWS, name=name, options=options, eval_data=ROWS[:4]).wait()
        assert isinstance(finished, TrainFinished)
        losses[name] = (finished.eval_loss_before, finished.eval_loss_after)
    assert losses["first"][0] == losses["second"][0]  # the second did not begin where the first had ended
    assert session.info is not None
    assert session.info.adapters == ("first", "second")
    for name in ("first", "second", "first"):
        assert session.use_adapter(name).adapter == name
        measured = session.evaluate(ROWS[:4], compare=False).wait()
        assert measured.loss == pytest.approx(losses[name][1], rel=1e-5)  # type: ignore[union-attr]
    finished = session.train(ROWS, name="second", options=OPTIONS, eval_data=ROWS[:4]).wait()
    assert isinstance(finished, TrainFinished)
    assert finished.eval_loss_before == pytest.approx(losses["second"][1], rel=1e-5)  # it goes on
    session.use_adapter("first")
    measured = session.evaluate(ROWS[:4], compare=False).wait()
    assert measured.loss == pytest.approx(losses["first"][1], rel=1e-5)  # type: ignore[union-attr]
    session.close()


def test_all_weights_are_trained_saved_and_chatted_with(tmp_path: Path) -> None:
    session = Session()
    session.load("tiny-random", quantization="none").wait()
    options = {**OPTIONS, "learning_rate": 1e-3, "output_dir": str(tmp_path / "model")}
    events = list(session.train(ROWS, name="whole", peft="none", options=options, eval_data=ROWS[:4]))
    finished = events[-1]
    assert isinstance(finished, TrainFinished)
    assert finished.eval_loss_before is not None
    assert finished.eval_loss_after is not None
    assert finished.eval_loss_after < finished.eval_loss_before
    started = next(e for e in events if isinstance(e, TrainStarted))
    assert (started.full, started.settings["peft"]) == (True, "none")
    assert session.info is not None
    assert (session.info.model_id, session.info.adapter) == (str((tmp_path / "model").resolve()), None)
    reply = session.ask("What is 3?", max_new_tokens=6, temperature=0)
    # The name that was loaded before means the old weights again: nothing is reused.
    old = session.load("tiny-random", quantization="none").wait()
    assert not old.reused  # type: ignore[union-attr]
    session.load(str(tmp_path / "model"), quantization="none").wait()
    assert session.ask("What is 3?", new=True, max_new_tokens=6, temperature=0) == reply
    session.close()


def test_all_weights_of_a_quantised_model_or_beneath_an_adapter_are_refused(tiny: LoadedModel, events: Events) -> None:
    from dataclasses import replace

    before, info = logits(tiny), tiny.info
    tiny.info = replace(info, quantization="nf4")
    with pytest.raises(ConfigError, match=r"All weights of a model in nf4 cannot be trained\. Load it with --quant"):
        run(tiny, events, peft="none")
    tiny.info = info
    run(tiny, events)
    with pytest.raises(ConfigError, match=r"while adapters are on the model \(numbers\)"):
        run(tiny, events, peft="none")
    with tiny.model.disable_adapter():
        assert torch.equal(logits(tiny), before)


def test_after_an_error_all_weights_are_what_they_were(tiny: LoadedModel, events: Events) -> None:
    before, model = logits(tiny), tiny.model
    options = {"learning_rate": 1e20, "max_grad_norm": 0, "max_steps": 20, "lr_scheduler_type": "constant"}
    with pytest.raises(Exception, match="loss is no number any more"):
        run(tiny, events, peft="none", options=options)
    assert tiny.model is model
    assert torch.equal(logits(tiny), before)
    assert not any(p.requires_grad for p in model.parameters())
