"""What fine-tuning does wrong without a word elsewhere, provoked on real TRL: done right, or said before a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from llmmagic import Session
from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import ConfigError
from llmmagic.core.events import DataInspected, TrainStep
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.inspection import inspect_data
from llmmagic.core.training.run import train
from tests.core.training.conftest import Events

ROWS = [{"question": f"What is number {i}?", "answer": f"It is {i}."} for i in range(8)]


def test_llama2_text_on_a_tokenizer_that_adds_bos_has_one(llama2: LoadedModel) -> None:
    rows = [{"text": f"<s>[INST] What is number {i}? [/INST] It is {i}. </s>"} for i in range(4)]
    bos, end = llama2.tokenizer.bos_token_id, llama2.tokenizer.eos_token_id
    # What happens to whoever hands the text to the tokenizer as it is.
    assert llama2.tokenizer(rows[0]["text"])["input_ids"][:2] == [bos, bos]
    report = inspect_data(llama2, rows, TrainConfig(), emit=lambda event: None, cancel=CancelToken())
    assert report.most_bos == 1
    assert report.end_labelled == 4
    assert report.findings == ()
    pieces = report.views[0].tokens
    assert [piece.text for piece in pieces if piece.special] == ["<s>", "</s>"]
    assert "".join(piece.text for piece in pieces if piece.kind == "trained") == " It is 0. </s>"
    assert pieces[-1].text == llama2.tokenizer.decode([end])


def test_rows_whose_whole_answer_is_cut_off_are_said(tiny: LoadedModel, events: Events, tmp_path: Path) -> None:
    rows = [*ROWS, {"question": "Why " * 60, "answer": "Because."}]
    config = TrainConfig(options={"max_steps": 1, "max_length": 128, "output_dir": str(tmp_path)})
    train(tiny, rows, config, emit=events.append, cancel=CancelToken())
    (report,) = (event for event in events if isinstance(event, DataInspected))
    (finding,) = report.findings
    assert finding.text == "1 of 9 rows are left out: max_length cuts off their whole answer."
    assert finding.rows == (9,)


def test_an_adapter_on_4_bits_is_trained_in_float32(tmp_path: Path) -> None:
    """TRL casts it to bfloat16, in which small steps are lost and a resumed run ends elsewhere."""
    session = Session()
    session.load("tiny-random", quantization="nf4").wait()
    seen: set[torch.dtype] = set()
    steps = 0

    def look() -> None:
        model = session.model
        seen.update(p.dtype for name, p in model.named_parameters() if "lora_" in name)

    for event in session.train(ROWS, options={"max_steps": 2, "output_dir": str(tmp_path)}):
        if type(event).__name__ == "TrainStep":
            look()
            steps += 1
    assert steps == 2
    assert seen == {torch.float32}
    assert session.info is not None
    assert session.info.quantization == "nf4"
    session.close()


def test_a_report_to_what_is_not_there_is_refused_before_anything_is_done(
    tiny: LoadedModel, events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(to: object) -> None:
        options = {"max_steps": 1, "report_to": to, "output_dir": str(tmp_path)}
        train(tiny, ROWS, TrainConfig(options=options), emit=events.append, cancel=CancelToken())

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "nosuchtracker", TrainerCallback)
    with pytest.raises(ConfigError, match=r"needs the package nosuchtracker.*%pip install nosuchtracker"):
        report("nosuchtracker")
    with pytest.raises(ConfigError, match=r"report_to cannot be 'tensorbord'. Did you mean 'tensorboard'\?"):
        report(["tensorbord"])
    assert events == []


def test_what_is_reported_are_the_losses_of_every_step(
    tiny: LoadedModel, events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[dict[str, float]] = []

    class Tracker(TrainerCallback):  # type: ignore[misc] # transformers is not typed
        """Stands in for one of the packages that transformers reports to."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            logged.append(dict(logs))

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "json", Tracker)  # a package of that name is always installed
    options = {"max_steps": 2, "eval_steps": 2, "report_to": "json", "output_dir": str(tmp_path)}
    config = TrainConfig(options=options)
    train(tiny, ROWS, config, eval_source=ROWS[:2], emit=events.append, cancel=CancelToken())
    losses = [event.loss for event in events if isinstance(event, TrainStep)]
    assert [entry["loss"] for entry in logged if "loss" in entry] == pytest.approx(losses, abs=1e-4)
    assert any("eval_loss" in entry for entry in logged)
