"""From the threads of the core to the event loop of the app: events in batches, at the pace of the screen."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from llmmagic.core.operation import Operation

E = TypeVar("E")
FRAME_S = 0.05
"""How often events are handed over: 20 times a second reads as fluent, and one frame draws many tokens at once."""
_BUSY_SHARE = 0.5  # of the time may go into handling events; the rest is the keyboard's


class _Pump(threading.Thread, Generic[E]):
    """Reads an operation, which blocks, in a thread of its own."""

    def __init__(self, operation: Operation[E]) -> None:
        super().__init__(name=f"llmchat-{operation.name}", daemon=True)
        self._operation = operation
        self.events: queue.SimpleQueue[E] = queue.SimpleQueue()
        self.error: BaseException | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        try:
            for event in self._operation:
                self.events.put(event)
        except BaseException as err:  # whatever it is, it is raised again on the event loop
            self.error = err
        self.ended.set()

    def take(self) -> list[E]:
        """What has come in since the last call."""
        batch: list[E] = []
        while True:
            try:
                batch.append(self.events.get_nowait())
            except queue.Empty:
                return batch


async def batches(operation: Operation[E]) -> AsyncIterator[list[E]]:
    """The events of an operation, some 20 times a second what has come in.

    Args:
        operation: It is read to its end.

    Yields:
        Non-empty lists of events.

    Raises:
        LLMMagicError: What the operation raises.
    """
    pump = _Pump(operation)
    pump.start()
    pause = FRAME_S / 4  # the first event is not kept waiting
    while True:
        await asyncio.sleep(pause)
        ended = pump.ended.is_set()  # before taking: what comes later is taken in the next round
        began = time.perf_counter()
        if batch := pump.take():
            yield batch
        if ended:
            break
        spent = time.perf_counter() - began
        pause = max(FRAME_S, spent * (1 - _BUSY_SHARE) / _BUSY_SHARE) if batch else FRAME_S / 4
    if pump.error is not None:
        raise pump.error
