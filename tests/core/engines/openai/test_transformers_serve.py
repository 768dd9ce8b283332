"""The openai engine against ``transformers serve``, as its users start it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmmagic.core.events import ChatFinished, ChatStarted, TextDelta
from llmmagic.core.session import Session

_START_S = 120.0


@pytest.fixture(scope="module")
def served(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of ``transformers serve`` with the tiny model."""
    if any(find_spec(name) is None for name in ("fastapi", "openai", "uvicorn")):
        pytest.skip("transformers serve needs fastapi, openai and uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log"
    (log.parent / "hub").mkdir()  # without that folder the server cannot list its models
    code = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", code, "serve", str(tiny_folder), "--device", "cpu", "--port", str(port)]
    environ = {**os.environ, "HF_HUB_CACHE": str(log.parent / "hub"), "no_proxy": "localhost,127.0.0.1"}
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=output, stderr=output, env=environ)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            opener.open(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"transformers serve did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.mark.slow
def test_a_conversation_with_transformers_serve(served: str, tiny_folder: Path) -> None:
    session = Session()
    info = session.load(str(tiny_folder), base_url=served, max_context=400).wait().info  # type: ignore[union-attr]
    counts = next(choice for choice in info.choices if choice.name == "token counts")
    assert (counts.value, info.context_window) == ("exact", 400)
    for number in range(4):
        events = list(session.chat(f"Question {number}? é😀 " * 3, temperature=0, max_new_tokens=40))
        started, last = events[0], events[-1]
        assert isinstance(started, ChatStarted)
        assert isinstance(last, ChatFinished)
        assert last.stats.prompt_tokens == started.window.prompt_tokens
        assert (last.finish_reason, last.stats.completion_tokens) == ("length", 40)
    assert started.window.dropped_message_ids
    # Its own weights, its own tokenizer: the same reply as from the model loaded here.
    here = Session()
    here.load(str(tiny_folder), quantization="none").wait()
    want = here.ask("Hello", temperature=0, max_new_tokens=16)
    assert session.ask("Hello", new=True, temperature=0, max_new_tokens=16) == want
    operation = session.chat("Never stop", new=True, max_new_tokens=300)
    for event in operation:
        if isinstance(event, TextDelta):
            operation.cancel()
    assert isinstance(event, ChatFinished)
    assert event.finish_reason == "cancelled"
    here.close()
    session.close()
