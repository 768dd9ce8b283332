"""Servers for the openai engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.engines.openai import address, retry
from tests.core.engines.openai.servers import KEY, Told, llama_server, scripted_server
from tests.core.engines.tiny_gguf import write_tiny_gguf


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds a key of the person who runs it."""
    for name in (address.KEY_ENV, address.OPENAI_KEY_ENV, address.OPENAI_URL_ENV):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(address, "_from_keyring", lambda name: None)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody wants to wait in a test; what a server asks for is waited for all the same."""
    monkeypatch.setattr(retry, "_FIRST_S", 0.02)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory, model: Any, tokenizer: Any) -> Path:
    pytest.importorskip("xllamacpp")
    return write_tiny_gguf(tmp_path_factory.mktemp("served") / "tiny.gguf", model, tokenizer)


@pytest.fixture(scope="session")
def llama(tiny_gguf: Path) -> Iterator[str]:
    """Address of a llama.cpp server with 512 tokens of context that wants `KEY`."""
    with llama_server(tiny_gguf, context=512, key=KEY) as address:
        yield address


@pytest.fixture
def told() -> Iterator[Told]:
    """A server that does what it is told."""
    with scripted_server() as server:
        yield server
