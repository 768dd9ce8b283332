"""What goes wrong most often: one clear line each, and the session as it was, model, adapter and conversation."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from llmmagic import Session
from llmmagic.core.models.tiny import save_tiny
from tests.magics.conftest import ROOT, ROWS

IDS = torch.arange(24)[None] + 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data files that are wrong in one way each, another base model, and an adapter on it."""
    root = tmp_path_factory.mktemp("wrong")
    lines = [json.dumps(row) for row in ROWS]
    unanswered = [*lines[:2], json.dumps({"question": "And why?", "answer": " "}), *lines[3:]]
    (root / "good.jsonl").write_text("\n".join(lines))
    (root / "unanswered.jsonl").write_text("\n".join(unanswered))
    (root / "broken.jsonl").write_text(f"{lines[0]}\n{{'question': 'Why?'}}\n")
    (root / "empty.jsonl").write_text("")
    (root / "empty.csv").write_text("question,answer\n")
    (root / "nameless.csv").write_text("a,b\n1,2\n")
    save_tiny(root / "base-b", seed=7)
    session = Session()
    session.load(str(root / "base-b"), quantization="none").wait()
    session.train(ROWS, options={"max_steps": 1, "output_dir": str(root / "adapter-of-b")}).wait()
    session.close()
    return root


@pytest.fixture(scope="module")
def trained(chatting: InteractiveShell, folder: Path) -> Iterator[InteractiveShell]:
    """A shell in that folder, with an adapter on ``tiny-random`` and a conversation that has begun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        chatting.user_ns.update(rows=ROWS, nothing=[])
        assert chatting.run_cell("%%llm_train mine --data rows\nmax_steps: 1\noutput_dir: mine").success
        assert chatting.run_cell("%llm_chat --new --max-new-tokens 3 Hello").success
        yield chatting


def state(shell: InteractiveShell) -> tuple[Any, ...]:
    """Everything that an error must not change."""
    session = shell.magics_manager.registry["LLMMagics"].session
    talks = {name: tuple(talk.path()) for name, talk in session.conversations.items()}
    with torch.inference_mode():
        logits = session.model(IDS).logits
    return session.info, id(session.model), session.busy, talks, logits.sum().item(), logits.std().item()


def fail(shell: InteractiveShell, cell: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Run a cell that fails and changes nothing.

    Returns:
        Type of the error, and everything that was shown.
    """
    before = state(shell)
    capsys.readouterr()
    result = shell.run_cell(cell)
    assert not result.success
    shown = capsys.readouterr()
    assert shown.err == ""
    assert state(shell) == before
    return type(result.error_in_exec).__name__, shown.out


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        (
            "%llm_load tiny-rndom",
            "ModelNotFoundError: 'tiny-rndom' is no folder here and no Hub id (org/name). Did you mean 'tiny-random'?",
        ),
        ("%llm_load ./base-a", "ModelNotFoundError: There is no file or folder './base-a'. Did you mean 'base-b'?"),
        ("%llm_load no.gguf", "ModelNotFoundError: There is no file or folder 'no.gguf'."),
        (
            "%llm_load org/none",
            "NetworkError: org/none is not on this machine and the Hugging Face Hub cannot be reached. Check the "
            "network (and HF_HUB_OFFLINE), or name a model folder, a .gguf file or demo.",
        ),
        (
            "%llm_load tiny-random --quantization nf5",
            "ConfigError: quantization must be one of auto, nf4, fp4, int8, none, got 'nf5'. Did you mean 'nf4'?",
        ),
        (
            "%llm_load tiny-random --engine llamacpp",
            "ConfigError: engine must be one of auto, transformers, llama.cpp, openai, got 'llamacpp'. "
            "Did you mean 'llama.cpp'?",
        ),
        (
            "%llm_load tiny-random --dense-copy yes",
            "ConfigError: dense_copy must be one of auto, on, off, got 'yes'.",
        ),
        ("%llm_load tiny-random --max-context 3", "ConfigError: max_context must be >= 16, got 3."),
        (
            "%llm_load tiny-random --adapter adapter-of-b",
            "AdapterError: The adapter 'adapter-of-b' was made on {folder}/base-b, not on tiny-random. "
            "Load {folder}/base-b first.",
        ),
        (
            "%%llm_train med --data god.jsonl",
            "DataNotFoundError: There is no file 'god.jsonl'. Did you mean 'good.jsonl'?",
        ),
        (
            "%%llm_train med --data org/none",
            "NetworkError: The data set 'org/none' cannot be fetched: the Hub cannot be reached. Check the connection, "
            "or give a local file.",
        ),
        (
            "%%llm_train med --data empty.jsonl",
            "DataFormatError: empty.jsonl has no rows. Give at least one row to train on.",
        ),
        (
            "%%llm_train med --data empty.csv",
            "DataFormatError: empty.csv has no rows. Give at least one row to train on.",
        ),
        (
            "%%llm_train med --data nothing",
            "DataFormatError: a list has no rows. Give at least one row to train on.",
        ),
        (
            "%%llm_train med --data unanswered.jsonl",
            "EmptyRowError: Row 3 has no answer: column 'answer' is empty. Without an answer there is nothing to "
            "learn: give it one, or leave such rows out (--allow empty-answer).",
        ),
        (
            "%%llm_train med --data good.jsonl --eval-data unanswered.jsonl",
            "EmptyRowError: Held-out data: Row 3 has no answer: column 'answer' is empty. Without an answer there is "
            "nothing to learn: give it one, or leave such rows out (--allow empty-answer).",
        ),
        (
            "%%llm_train med --data good.jsonl\nmax_stps: 3",
            "ConfigError: There is no training setting 'max_stps'. Did you mean 'max_steps'?",
        ),
        (
            "%%llm_train med --data good.jsonl\nbatch_size: 3",
            "ConfigError: There is no training setting 'batch_size'. Did you mean 'per_device_train_batch_size'?",
        ),
        (
            "%%llm_train med --data good.jsonl\nlora_r: 3",
            "ConfigError: There is no training setting 'lora_r'. It goes below 'lora:', as 'r'.",
        ),
        (
            "%%llm_train med --data good.jsonl\nlora:\n  lora_alfa: 3",
            "ConfigError: There is no LoRA setting 'lora_alfa'. Did you mean 'lora_alpha'?",
        ),
        (
            "%%llm_train med --data good.jsonl\nmax_steps: [1",
            "ConfigError: The settings are no valid YAML: expected ',' or ']', but got '<stream end>' in line 2, "
            "column 1 of the cell's body. Write one 'key: value' a line.",
        ),
        (
            "%%llm_train med --data good.jsonl\nper_device_train_batch_size: 0",
            "ConfigError: per_device_train_batch_size must be >= 1, got 0.",
        ),
        ("%%llm_train med --data good.jsonl\nlora:\n  r: 0", "ConfigError: r must be >= 1, got 0."),
        (
            "%llm_chat --temperature 200 hi",
            "ConfigError: temperature must be >= 0 and <= 100, got 200.0.",
        ),
        ('%llm_chat --conversation "" hi', "ConfigError: A conversation needs a name."),
        ("%llm_chat --max-new-tokens 0 hi", "ConfigError: max_new_tokens must be >= 1, got 0."),
    ],
)
def test_one_line_and_nothing_changed(
    trained: InteractiveShell, folder: Path, capsys: pytest.CaptureFixture[str], cell: str, line: str
) -> None:
    expected = line.replace("{folder}", str(folder.resolve()))
    error, shown = fail(trained, cell, capsys)
    assert shown == f"{expected}\n"
    assert expected.startswith(f"{error}: ")


def test_data_that_is_no_data_says_where(
    trained: InteractiveShell, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, shown = fail(trained, "%%llm_train med --data broken.jsonl", capsys)
    assert error == "DataFormatError"
    assert shown.startswith("DataFormatError: Line 2 of broken.jsonl is no valid JSON: ")
    error, shown = fail(trained, "%%llm_train med --data nameless.csv", capsys)
    assert error == "DataFormatError"
    assert "a, b" in shown
    assert shown.count("\n") == 1


@pytest.fixture
def full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache on a disk with 5 MB left."""
    cache = folder / "cache"
    monkeypatch.setenv("LLMMAGIC_CACHE_DIR", str(cache))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5_000_000, 5_000_000))
    return cache


FREE_SPACE = "5 MB are free. Free some space, or set LLMMAGIC_CACHE_DIR to a folder on another disk."


def test_no_space_for_what_has_to_be_stored(
    trained: InteractiveShell, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error, shown = fail(trained, "%llm_load demo", capsys)
    last = shown.splitlines()[-1]
    assert error == "StorageError"
    assert last.startswith("StorageError: No space left for the cache: 284 MB are needed in ")
    assert last.endswith(FREE_SPACE)
    assert not [path for path in full_disk.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_no_space_for_what_only_saves_time(
    trained: InteractiveShell, full_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert trained.run_cell("%llm_load base-b --quantization nf4").success
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if "Warning" in line)
    assert "The quantised model is not kept for the next load. No space left for the cache: " in line
    assert line.endswith(FREE_SPACE)


# The Hub's client reads its address when it is imported.
NO_HUB = """
from tests.magics.conftest import make_shell
shell = make_shell()
shell.user_ns["rows"] = [{"question": "Why?", "answer": "So."}] * 4
shell.run_line_magic("llm_load", "tiny-random")
session = shell.magics_manager.registry["LLMMagics"].session
info = session.info
for cell in ("%llm_load org/none", "%llm_load tiny-random --adapter org/none", "%%llm_train m --data org/none\\n"):
    print("---")
    assert not shell.run_cell(cell).success
    assert session.info is info
"""


@pytest.mark.slow
def test_no_connection(tmp_path: Path) -> None:
    nobody_listens = "http://127.0.0.1:9"
    environment = {**os.environ, "HF_ENDPOINT": nobody_listens, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", NO_HUB], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    model, adapter, data = (text.strip() for text in done.stdout.split("---")[1:])
    unreachable = "NetworkError: org/none is not on this machine and the Hugging Face Hub cannot be reached. Check"
    assert model.splitlines()[-1].startswith(unreachable)
    assert adapter.splitlines()[-1].startswith(unreachable)
    assert data.splitlines()[-1].startswith("NetworkError: The data set 'org/none' cannot be fetched")


def test_before_anything_is_loaded(trained: InteractiveShell, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained.run_line_magic("llm_unload", "")
    capsys.readouterr()
    hint = "needs a model, and none is loaded. Load one first: %llm_load demo, or session.load."
    for cell, doing in (
        ("%llm_chat hi", "Chatting"),
        ("%%llm_train med --data good.jsonl\nmax_steps: 1", "Training"),
        ("%llm_save folder", "Saving a model"),
    ):
        assert not trained.run_cell(cell).success
        assert capsys.readouterr().out == f"ModelNotLoadedError: {doing} {hint}\n"
