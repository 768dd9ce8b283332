"""Loss, perplexity and accuracy of the base and of the adapter on the same rows; and the way to lm-eval-harness."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from llmmagic import Session
from llmmagic.core.errors import ConfigError, DataNotFoundError
from llmmagic.core.events import EvalFinished, PrepareProgress, TaskScore, TrainEval
from llmmagic.core.training.harness import read_scores

ROWS = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(12)]


def test_the_base_is_held_against_the_adapter_that_is_on(session: Session, tmp_path: Path) -> None:
    options = {"max_steps": 6, "learning_rate": 1e-2, "output_dir": str(tmp_path)}
    trained = [e for e in session.train(ROWS, eval_data=ROWS[:4], options=options) if isinstance(e, TrainEval)]
    events = list(session.evaluate(ROWS, limit=4))
    finished = events[-1]
    assert isinstance(finished, EvalFinished)
    assert finished.base is not None
    assert (finished.rows, finished.base.rows, finished.adapter, finished.base.adapter) == (4, 4, "adapter", None)
    assert finished.base.loss == pytest.approx(trained[0].loss, rel=1e-5)
    assert finished.loss == pytest.approx(trained[-1].loss, rel=1e-5)
    assert finished.token_accuracy > finished.base.token_accuracy
    details = [event.detail for event in events if isinstance(event, PrepareProgress)]
    assert details == ["tokenize", "evaluate the base", "evaluate adapter"]
    # What was on is on again, and frozen.
    assert session.info is not None
    assert session.info.adapter == "adapter"
    assert not any(p.requires_grad for p in session.model.parameters())
    alone = session.evaluate(ROWS, limit=4, compare=False).wait()
    assert isinstance(alone, EvalFinished)
    assert alone.base is None
    assert alone.loss == pytest.approx(finished.loss, rel=1e-6)


def test_an_evaluation_that_is_stopped_leaves_the_adapter_on(session: Session, tmp_path: Path) -> None:
    session.train(ROWS, options={"max_steps": 1, "output_dir": str(tmp_path)}).wait()
    operation = session.evaluate(ROWS)
    for event in operation:
        if isinstance(event, PrepareProgress) and event.detail == "tokenize":
            operation.cancel()
    assert session.info is not None
    assert session.info.adapter == "adapter"
    with torch.no_grad():
        on = session.model(input_ids=torch.tensor([[5, 6]])).logits
        session.use_adapter("adapter")
        assert torch.equal(session.model(input_ids=torch.tensor([[5, 6]])).logits, on)


def test_columns_and_splits_are_those_of_training(session: Session) -> None:
    rows = [{"complaint": "It hurts.", "advice": "Rest."}] * 4
    finished = session.evaluate(rows, split="[:3]", columns={"complaint": "prompt", "advice": "completion"}).wait()
    assert isinstance(finished, EvalFinished)
    assert (finished.rows, finished.base, finished.adapter) == (3, None, None)
    with pytest.raises(DataNotFoundError):
        session.evaluate("nosuch.jsonl").wait()


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the extra is installed")
def test_tasks_need_the_extra(session: Session) -> None:
    with pytest.raises(ConfigError, match=r"lm-eval-harness, which is not installed\. pip install 'llmmagic\[eval\]'"):
        session.evaluate_tasks(["arc_easy"]).wait()


def test_scores_are_read_with_their_errors() -> None:
    results = {
        "arc_easy": {
            "alias": "arc_easy",
            "acc,none": 0.5,
            "acc_stderr,none": 0.25,
            "acc_norm,none": 1,
            "sample_len": 4,
        },
        "gsm8k": {"exact_match,strict-match": 0.125, "exact_match_stderr,strict-match": "N/A"},
    }
    assert read_scores(results) == [
        TaskScore("arc_easy", "acc", 0.5, 0.25),
        TaskScore("arc_easy", "acc_norm", 1.0, None),
        TaskScore("gsm8k", "exact_match (strict-match)", 0.125, None),
    ]
