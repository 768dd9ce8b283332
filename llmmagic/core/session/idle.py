"""What a session does while nobody asks it anything: the engine reads what the next prompt will begin with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmmagic.core.operation import CancelToken, Operation

if TYPE_CHECKING:
    from llmmagic.core.engines.base import Engine


class ReadAhead:
    """Reads a prompt in a thread, and gives way at once.

    Nobody hears of it when it fails: the next reply then starts as it would have without.
    """

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._next: tuple[Engine, tuple[int, ...]] | None = None
        self._running: Operation[int] | None = None

    def plan(self, engine: Engine, prompt_ids: tuple[int, ...]) -> None:
        """Say what to read at the next `start`.

        Args:
            engine: Who reads.
            prompt_ids: (T,); empty is nothing.
        """
        self._next = (engine, prompt_ids) if prompt_ids else None

    def start(self) -> None:
        """Begin, if there is something to read. The thread that starts it must be the one that had the engine."""
        if self._next is None:
            return
        (engine, prompt_ids), self._next = self._next, None

        def work(_emit: Callable[[int], None], cancel: CancelToken) -> int:
            return engine.prefill_ahead(prompt_ids, cancel)

        try:
            self._running = Operation("prefill-ahead", work, on_end=lambda: None, background=True)
        except RuntimeError:  # the system has no thread left
            self._running = None

    def cancel(self) -> None:
        """Ask it to end; safe to call from any thread, and never waits."""
        if self._running is not None:
            self._running.cancel()

    def finish(self) -> None:
        """Wait until all is read."""
        if self._running is not None:
            self._running.join()

    def stop(self) -> None:
        """End it and wait for that: a fraction of a second. The engine is free then."""
        self._next = None
        self.cancel()
        self.finish()
        self._running = None
