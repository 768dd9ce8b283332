"""Training through a session: the chat has the adapter on, and a saved one comes back the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmmagic import Session
from llmmagic.core.errors import ModelNotLoadedError
from llmmagic.core.events import EvalFinished, Notice, TrainFinished, TrainStarted

ROWS = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(24)]


def logits(session: Session) -> torch.Tensor:
    """After a fixed prompt: (V,)."""
    with torch.inference_mode():
        result: torch.Tensor = session.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0, -1]
    return result


def test_training_lowers_the_loss_and_the_adapter_survives_saving(session: Session, tmp_path: Path) -> None:
    before = session.ask("What is 3?", max_new_tokens=6, temperature=0)
    options = {"max_steps": 12, "learning_rate": 5e-3, "output_dir": str(tmp_path / "run")}
    finished = session.train(ROWS, name="numbers", options=options, eval_data=ROWS[:6]).wait()
    assert isinstance(finished, TrainFinished)
    assert (finished.reason, finished.steps) == ("completed", 12)
    assert finished.eval_loss_before is not None
    assert finished.eval_loss_after is not None
    assert finished.eval_loss_after < finished.eval_loss_before - 0.3
    assert session.info is not None
    assert session.info.adapter == "numbers"
    assert session.ask("What is 3?", new=True, max_new_tokens=6, temperature=0) != before

    tuned = logits(session)
    folder = session.save_adapter(tmp_path / "saved")
    assert session.use_adapter(None).adapter is None
    assert not torch.allclose(logits(session), tuned, atol=1e-3)
    assert session.use_adapter("numbers").adapter == "numbers"

    other = Session()
    info = other.load(str(folder)).wait()
    assert other.info is not None
    assert other.info.adapter is not None, info
    assert torch.allclose(logits(other), tuned, atol=1e-3)
    evaluated = other.evaluate(ROWS[:6]).wait()
    assert isinstance(evaluated, EvalFinished)
    assert evaluated.loss == pytest.approx(finished.eval_loss_after, abs=1e-3)
    other.close()


def test_a_loaded_adapter_is_chatted_with(session: Session, tmp_path: Path) -> None:
    options = {"max_steps": 2, "learning_rate": 1e-2, "output_dir": str(tmp_path / "run")}
    session.train(ROWS, name="numbers", options=options).wait()
    folder = session.save_adapter(tmp_path / "saved")
    tuned = logits(session)
    other = Session()
    other.load("tiny-random").wait()
    assert other.load_adapter(folder, name="mine").adapter == "mine"
    assert torch.allclose(logits(other), tuned, atol=1e-3)
    other.close()


def test_the_tutorial_recipe_fits_any_template(session: Session, tmp_path: Path) -> None:
    options = {"max_steps": 1, "output_dir": str(tmp_path)}
    finished = session.train(ROWS, recipe="tutorial", options=options).wait()
    assert isinstance(finished, TrainFinished)
    assert finished.steps == 1


def test_a_dry_run_changes_nothing(session: Session, tmp_path: Path) -> None:
    before = logits(session)
    planned = session.train(ROWS, dry_run=True, options={"max_steps": 3, "output_dir": str(tmp_path)}).wait()
    assert isinstance(planned, TrainStarted)
    assert (planned.total_steps, planned.data.rows) == (3, 24)
    assert torch.equal(logits(session), before)
    assert session.info is not None
    assert session.info.adapter is None


def test_a_new_run_of_the_same_name_keeps_what_the_earlier_one_saved(tmp_path: Path) -> None:
    results = []
    for number in range(2):
        session = Session()
        session.load("tiny-random").wait()
        options = {"max_steps": 2, "learning_rate": 1e-2, "seed": number, "output_dir": str(tmp_path)}
        events = list(session.train(ROWS, name="numbers", options=options))
        results.append(logits(session))
        session.close()
    kept = [event.text for event in events if isinstance(event, Notice) and event.topic == "superseded"]
    assert kept == [f"The adapter that an earlier run saved here is kept in {tmp_path / 'superseded'}."]
    for folder, expected in ((tmp_path / "superseded", results[0]), (tmp_path, results[1])):
        session = Session()
        session.load(str(folder)).wait()
        assert torch.allclose(logits(session), expected, atol=1e-3)
        session.close()


def test_the_same_training_twice_gives_the_same_weights(tmp_path: Path) -> None:
    results = []
    for number in range(2):
        session = Session()
        session.load("tiny-random").wait()
        session.train(ROWS, options={"max_steps": 3, "output_dir": str(tmp_path / str(number))}).wait()
        results.append(logits(session))
        session.close()
    assert torch.equal(results[0], results[1])


def test_training_needs_a_model() -> None:
    with pytest.raises(ModelNotLoadedError, match="Training needs a model, and none is loaded"):
        Session().train(ROWS)
