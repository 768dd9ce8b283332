"""Training in two processes from a session: the same losses, one live run, nothing left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch

from llmmagic import Session
from llmmagic.core.errors import ConfigError, DataFormatError
from llmmagic.core.events import Cancelled, TrainEval, TrainEvent, TrainFinished, TrainStep

ROWS = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(16)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="gloo is for Linux and macOS"),
]


def run(session: Session, processes: int, folder: Path, batch: int) -> list[TrainEvent]:
    options = {"max_steps": 4, "learning_rate": 1e-2, "per_device_train_batch_size": batch, "output_dir": str(folder)}
    lora = {"r": 4, "lora_dropout": 0.0}
    operation = session.train(ROWS, name="numbers", eval_data=ROWS[:4], lora=lora, options=options, processes=processes)
    return list(operation)


def logits(session: Session) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = session.model(input_ids=torch.arange(3, 40)[None]).logits
    return result


def test_two_processes_train_as_one_and_bring_the_adapter_back(session: Session, tmp_path: Path) -> None:
    both = run(session, 2, tmp_path / "two", 2)
    together = logits(session)
    assert session.info is not None
    assert session.info.adapter == "numbers"
    other = Session()
    other.load("tiny-random").wait()
    alone = run(other, 1, tmp_path / "one", 4)
    for kind in (TrainStep, TrainEval):
        expected = [event.loss for event in alone if isinstance(event, kind)]
        assert [event.loss for event in both if isinstance(event, kind)] == pytest.approx(expected, abs=1e-3)
    assert torch.allclose(logits(other), together, atol=1e-3)
    assert isinstance(both[-1], TrainFinished)
    other.close()

    # It goes on where it was, not from zero; and bad data is the same error as in one process.
    again = [event.loss for event in run(session, 2, tmp_path / "two", 2) if isinstance(event, TrainEval)]
    assert again[0] == pytest.approx(next(e.loss for e in reversed(both) if isinstance(e, TrainEval)), abs=1e-3)
    with pytest.raises(DataFormatError, match="Row 1 has no answer"):
        session.train([{"question": "a", "answer": ""}], processes=2).wait()
    with pytest.raises(ConfigError, match="Several processes train an adapter here"):
        session.train(ROWS, peft="none", processes=2).wait()
    assert session.busy is None


def test_an_interrupt_ends_all_processes(session: Session, tmp_path: Path) -> None:
    options = {"max_steps": 10_000, "output_dir": str(tmp_path)}
    operation = session.train(ROWS, name="numbers", options=options, processes=2)
    last: TrainEvent | None = None
    for last in operation:
        if isinstance(last, TrainStep) and last.step == 2:
            operation.cancel()
    assert isinstance(last, TrainFinished)
    assert (last.reason, session.info is not None and session.info.adapter) == ("cancelled", "numbers")
    assert psutil.Process().children(recursive=True) == []

    operation = session.train(ROWS, name="other", options=options, processes=2)
    operation.cancel(force=True)
    *_, last = operation
    assert isinstance(last, Cancelled)
    assert psutil.Process().children(recursive=True) == []
