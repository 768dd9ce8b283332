"""Methods, run files and evaluation from the notebook's side."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from llmmagic.core.events import EvalFinished
from llmmagic.core.training.runfile import read_run_file
from llmmagic.magics.results import TrainSummary
from llmmagic.train import main
from tests.magics.conftest import ROWS

PAIRS = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "Go away!"} for i in range(8)]


@pytest.fixture
def ready(chatting: InteractiveShell) -> InteractiveShell:
    chatting.user_ns |= {"rows": ROWS, "pairs": PAIRS, "prompts": [{"prompt": row["prompt"]} for row in PAIRS]}
    return chatting


def test_preferences_show_their_margin(
    ready: InteractiveShell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f"method: dpo\nmax_steps: 4\nlearning_rate: 5e-3\nwarmup_steps: 0\noutput_dir: {tmp_path.as_posix()}\n"
    assert ready.run_cell(f"%%llm_train polite --data pairs --eval-data pairs -o summary\n{body}").success
    summary = ready.user_ns["summary"]
    assert isinstance(summary, TrainSummary)
    assert summary.started.method == "dpo"
    out = re.sub(r"  +", " ", capsys.readouterr().out)
    assert "Held-out reward margin 0.000 → " in out
    assert "Held-out preferred as chosen 0% → 100%" in out
    assert "perplexity" not in out


def test_a_reward_is_a_function_of_the_notebook(
    ready: InteractiveShell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready.run_cell("def brevity(completions, **columns):\n    return [-len(text) / 10 for text in completions]")
    body = f"max_steps: 1\nmax_completion_length: 4\noutput_dir: {tmp_path.as_posix()}\n"
    assert ready.run_cell(f"%%llm_train short --method grpo --data prompts --reward brevity\n{body}").success
    assert "Tokens per answer" in capsys.readouterr().out
    ready.run_cell(f"%%llm_train short --method grpo --data prompts --reward brevty\n{body}")
    assert "no reward function 'brevty' in this notebook. Did you mean 'brevity'?" in capsys.readouterr().out
    ready.run_cell(f"%%llm_train short --method grpo --data prompts\n{body}")
    assert "grpo needs a reward function." in capsys.readouterr().out
    ready.run_cell("%%llm_train short --data pairs --method dop\nmax_steps: 1")
    assert "method must be one of sft, pretrain, dpo, kto, grpo, got 'dop'. Did you mean 'dpo'?" in (
        capsys.readouterr().out
    )


def test_a_cell_is_written_down_and_runs_as_a_program(
    ready: InteractiveShell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "pairs.jsonl", tmp_path / "run.yaml"
    data.write_text("\n".join(map(json.dumps, PAIRS)), encoding="utf-8")
    out = tmp_path / "out"
    body = f"max_steps: 2\nlearning_rate: 5e-3\noutput_dir: {out.as_posix()}\nlora:\n  r: 4\n"
    cell = f"%%llm_train polite --method dpo --data {data} --eval-data {data} --save {run}\n{body}"
    assert ready.run_cell(cell).success
    assert f"Run it with: python -m llmmagic.train {run}" in capsys.readouterr().out
    assert not out.exists()
    written = read_run_file(run)
    assert (written.load.model_id, written.data, written.eval_data) == ("tiny-random", str(data), str(data))
    assert (written.train.method, written.train.name, written.train.lora) == ("dpo", "polite", {"r": 4})
    assert written.train.options == {"max_steps": 2, "learning_rate": 5e-3, "output_dir": out.as_posix()}
    assert main([str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("held-out loss 0.6931 margin 0.0000 accuracy 0.0000 after step 0") for line in lines)
    assert (out / "adapter_model.safetensors").is_file()
    ready.run_cell(f"%%llm_train polite --data pairs --save {run}\n")
    assert "A run file can only name data that is in a file or on the Hub" in capsys.readouterr().out


def test_data_may_stand_in_the_body_and_the_model_may_not(
    ready: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ready.run_cell("%%llm_train --dry-run -o plan\ndata: rows\nname: fromthebody\n").success
    assert ready.user_ns["plan"].started.name == "fromthebody"
    ready.run_cell("%%llm_train --dry-run\nmax_steps: 1")
    assert "There is no data: give --data SRC" in capsys.readouterr().out
    ready.run_cell("%%llm_train --dry-run --data rows\nmodel: demo")
    assert "model: is a key of run files; in a cell the loaded model is trained." in capsys.readouterr().out


def test_evaluation_shows_base_and_adapter(
    ready: InteractiveShell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = f"max_steps: 3\nlearning_rate: 1e-2\noutput_dir: {tmp_path.as_posix()}\n"
    assert ready.run_cell(f"%%llm_train arm --data rows\n{body}").success
    capsys.readouterr()
    assert ready.run_cell("%llm_eval --data rows --limit 4 -o figures").success
    figures = ready.user_ns["figures"]
    assert isinstance(figures, EvalFinished)
    assert figures.base is not None
    out = capsys.readouterr().out
    assert "Evaluated on rows" in out
    assert "base → arm" in out
    assert f"{figures.base.loss:.3f} → {figures.loss:.3f} ({figures.loss - figures.base.loss:+.3f})" in out
    assert "4 rows, " in out
    ready.run_cell("%llm_eval")
    assert "Give held-out rows (--data SRC) or tasks (--tasks NAMES), one of the two." in capsys.readouterr().out
    ready.run_cell("%llm_eval --data feedback")
    assert "There is no feedback that sft can learn from." in capsys.readouterr().out
