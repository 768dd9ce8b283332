"""Every test of the app has a data folder of its own."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmmagic.core.chat.store import ConversationStore


@pytest.fixture(autouse=True)
def own_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is left over from another test, and times are shown in UTC."""
    monkeypatch.setenv("LLMMAGIC_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TZ", "UTC")
    if sys.platform != "win32":  # which has no tzset: there the tests' times are local ones
        time.tzset()
    return tmp_path


@pytest.fixture
def store() -> Iterator[ConversationStore]:
    """The store that the app will open."""
    with ConversationStore() as opened:
        yield opened


@pytest.fixture
def keys_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys do not wait until nothing is computed.

    Textual's pilot waits three times a key until the process is idle, one second at most. It is not while a model of
    this process writes, and the tiny one has written its whole reply in that time.
    """

    async def soon(*_: float) -> None:
        await asyncio.sleep(0.02)

    monkeypatch.setattr("textual.app.wait_for_idle", soon)
    monkeypatch.setattr("textual.pilot.wait_for_idle", soon)
