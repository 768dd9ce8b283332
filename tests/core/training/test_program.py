"""``python -m llmmagic.train``: the same run outside of a notebook, on one process and on two."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmmagic.core.errors import ConfigError
from llmmagic.core.training.runfile import parse_run
from llmmagic.train import main

ROWS = [{"question": f"What is number {i}?", "answer": f"It is {'odd' if i % 2 else 'even'}."} for i in range(16)]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The program takes over Ctrl+C."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run_file(tmp_path: Path, tiny_folder: Path) -> Path:
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    return write(tmp_path / "run.yaml", f"model: {tiny_folder}\nquantization: none\ndata: {data}\n", tmp_path / "out")


def write(path: Path, head: str, output_dir: Path, batch: int = 4) -> Path:
    body = f"output_dir: {output_dir}\nmax_steps: 3\nlearning_rate: 1e-2\nper_device_train_batch_size: {batch}\n"
    path.write_text(f"{head}{body}name: numbers\nlora:\n  r: 4\n  lora_dropout: 0\n", encoding="utf-8")
    return path


def test_keys_are_sorted_to_whom_they_belong() -> None:
    run = parse_run(
        {
            "model": "demo",
            "quantization": "none",
            "data": "rows.jsonl",
            "name": "med",
            "map": {"q": "prompt", "a": "completion"},
            "allow": "empty-answer",
            "max_steps": 3,
            "lora": {"r": 4},
        }
    )
    assert (run.load.model_id, run.load.quantization, run.data, run.eval_data) == ("demo", "none", "rows.jsonl", None)
    assert run.train.name == "med"
    assert run.train.columns == {"q": "prompt", "a": "completion"}
    assert run.train.allow == ("empty-answer",)
    assert (run.train.options, run.train.lora) == ({"max_steps": 3}, {"r": 4})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"data": "x"}, "A run needs 'model'"),
        ({"model": "demo"}, "A run needs 'data'"),
        ({"model": "demo", "data": "x", "lora": 3}, "lora must be a mapping"),
        ({"model": "demo", "data": "x", "quantization": "nf5"}, "quantization must be one of"),
    ],
)
def test_an_incomplete_run_is_refused(body: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_run(body)


def test_a_run_ends_with_a_saved_adapter(run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run_file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("training numbers: 16 rows (question/answer), 3 steps of 4 rows") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("step ")] == ["1/3", "2/3", "3/3"]
    assert lines[-1] == f"completed after 3 steps; adapter saved to {tmp_path / 'out'}"
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_errors_are_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nosuch.yaml")]) == 1
    assert (
        capsys.readouterr().err
        == f"error: The run file '{tmp_path / 'nosuch.yaml'}' cannot be read: No such file or directory.\n"
    )
    bad = tmp_path / "bad.yaml"
    bad.write_text("model: demo\ndata: [\n", encoding="utf-8")
    assert main([str(bad)]) == 1
    assert "bad.yaml is no valid YAML" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo is for Linux and macOS")
def test_two_processes_give_the_same_losses_as_one(run_file: Path, tmp_path: Path) -> None:
    head = "".join(run_file.read_text(encoding="utf-8").splitlines(keepends=True)[:3])
    both = write(tmp_path / "both.yaml", head, tmp_path / "both", batch=2)

    def losses(*command: str) -> list[float]:
        result = subprocess.run(
            [sys.executable, "-m", *command],
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, result.stderr
        return [float(loss) for loss in re.findall(r"^step \d+/\d+ loss ([\d.]+)", result.stdout, re.MULTILINE)]

    # Without GPUs accelerate needs --multi_gpu too to start several processes; they then talk over gloo.
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    two = losses(*launch, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "llmmagic.train", str(both))
    one = losses("llmmagic.train", str(run_file))
    assert len(one) == 3
    assert two == pytest.approx(one, abs=1e-3)
