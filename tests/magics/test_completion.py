"""Tab: options, values, models, files and variables; in IPython's own completer."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from llmmagic.magics.completion import complete


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with things to complete, and a Hub cache with one model."""
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "small.gguf").touch()
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "notes.md").touch()
    (tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-135M").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("%llm_load d", ["demo"]),
        ("%llm_load Hug", ["HuggingFaceTB/SmolLM2-135M"]),
        ("%llm_load ./sm", ["./small.gguf"]),
        ("%llm_load models/", ["models/mine/"]),
        ("%llm_load demo --quantization ", ["auto", "nf4", "fp4", "int8", "none"]),
        ("%llm_load demo --quantization=n", ["--quantization=nf4", "--quantization=none"]),
        ("%llm_load demo --dtype b", ["bfloat16"]),
        ("%llm_load demo --engine ", ["auto", "transformers", "llama.cpp", "openai"]),
        ("%llm_load demo --dense-copy=o", ["--dense-copy=on", "--dense-copy=off"]),
        ("%llm_load demo --quantization nf4 --d", ["--dtype", "--device", "--dense-copy"]),
        ("%%llm_train med --data tr", ["train.jsonl"]),
        ("%%llm_train med --data ro", ["rows"]),
        ("%%llm_train med --rec", ["--recipe"]),
        ("%%llm_train med --recipe t", ["tutorial"]),
        ("%llm_chat --conv", ["--conversation"]),
        ("%llm_chat --seed 1 tell me a --s", []),
        ("%llm_chat --seed 1 tr", []),
        ("%llm_status x", []),
        ("%timeit --d", []),
        ("print('%llm_load d", []),
    ],
)
def test_completions(shell: InteractiveShell, folder: Path, line: str, found: list[str]) -> None:
    shell.user_ns.update(rows=[{"text": "x"}], rogue=3)
    magics = shell.magics_manager.registry["LLMMagics"]
    assert complete(line, magics) == found


@pytest.mark.parametrize(
    ("line", "whole"),
    [
        ("%llm_load demo --quantization n", "nf4"),
        ("%llm_load demo --quant", "--quantization"),
        ("%llm_load ./sm", "./small.gguf"),
        ("%%llm_train med --data ro", "rows"),
    ],
)
def test_in_the_completer_of_the_shell(shell: InteractiveShell, folder: Path, line: str, whole: str) -> None:
    shell.user_ns["rows"] = [{"text": "x"}]
    with provisionalcompleter():
        found = [line[: each.start] + each.text for each in shell.Completer.completions(line, len(line))]
    assert any(text.endswith(f" {whole}") for text in found), found
