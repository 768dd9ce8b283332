"""How a training in other processes talks to the one that started it: a folder.

``events`` holds what the first process says, a JSON object a line; ``stop`` and ``stop-now`` are made to end the run,
after the current step or within it. Files work on every system, through any launcher, and for all processes of a run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmmagic.core.engines.wire import from_error, from_line, to_error, to_line
from llmmagic.core.errors import LLMMagicError
from llmmagic.core.operation import CancelToken

EVENTS, STOP, STOP_NOW = "events", "stop", "stop-now"
_POLL_S = 0.2


class Writer:
    """The side that trains."""

    def __init__(self, folder: Path, cancel: CancelToken) -> None:
        """Open it, and heed requests to stop.

        Args:
            folder: Made by the other side.
            cancel: Is requested when the other side says so.
        """
        self._file = (folder / EVENTS).open("ab")
        threading.Thread(target=_heed, args=(folder, cancel), name="llmmagic-stop", daemon=True).start()

    def event(self, event: Any) -> None:
        """Tell an event."""
        self._write({"event": event})

    def error(self, error: LLMMagicError) -> None:
        """Tell why it failed."""
        self._write({"error": from_error(error)})

    def _write(self, message: dict[str, Any]) -> None:
        self._file.write(to_line(message))
        self._file.flush()


def _heed(folder: Path, cancel: CancelToken) -> None:
    wait = threading.Event()
    while not cancel.forced:
        wait.wait(_POLL_S)
        if (folder / STOP_NOW).exists():
            cancel.request(force=True)
        elif (folder / STOP).exists():
            cancel.request()


@dataclass
class Reader:
    """The side that started it.

    Attributes:
        folder: Made by it.
    """

    folder: Path
    _read_bytes: int = 0

    def events(self) -> Iterator[Any]:
        """What was said since the last call.

        Raises:
            LLMMagicError: What the other side failed with.
        """
        path = self.folder / EVENTS
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._read_bytes)
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    return
                self._read_bytes += len(line)
                message = from_line(line)
                if "error" in message:
                    raise to_error(message["error"])
                yield message["event"]

    def stop(self, *, now: bool) -> None:
        """Ask the other side to end."""
        (self.folder / (STOP_NOW if now else STOP)).touch()
