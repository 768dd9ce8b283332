"""Following an operation: its events go into a view, the view is drawn, and an interrupt is never lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol, TypeVar

from llmmagic.core.operation import Operation
from llmmagic.magics.screens.base import Screen

E = TypeVar("E")
S = TypeVar("S")
E_contra = TypeVar("E_contra", contravariant=True)
S_co = TypeVar("S_co", covariant=True)
_DRAW_EVERY_S = 0.08


class View(Protocol[E_contra, S_co]):
    """Folds events into what there is to see."""

    def on(self, event: E_contra) -> None:
        """Take in an event."""
        ...

    def stopping(self) -> None:
        """An end was asked for."""
        ...

    def failed(self) -> None:
        """The operation raised."""
        ...

    def card(self) -> S_co:
        """What there is to see now."""
        ...


def follow(
    operation: Operation[E],
    view: View[E, S],
    screen: Screen[S],
    *,
    live: bool = True,
    delay_s: float = 0.0,
    tells: Callable[[], bool] = lambda: False,
) -> None:
    """Draw an operation until it has ended.

    The first interrupt asks the operation to end, and it is followed to its last event; the second breaks it off.

    Args:
        operation: Just started.
        view: Takes its events.
        screen: Where the view is drawn, at most every 80 ms.
        live: Draw while it runs, not only in the end.
        delay_s: Draw nothing before; what is over by then is drawn once.
        tells: Whether the view has something to say beside the error, when the operation raises before it is drawn.

    Raises:
        LLMMagicError: What the operation raised; what was drawn by then stays.
        KeyboardInterrupt: At the second interrupt.
    """
    with _interruptible(operation):
        drawn = ended = changed = False
        due_s = time.monotonic() + delay_s
        try:
            for event in operation.ticking(_DRAW_EVERY_S):
                if event is not None:
                    view.on(event)
                    changed = True
                if operation.token.requested:
                    view.stopping()
                if live and changed and time.monotonic() >= due_s:
                    screen.draw(view.card())
                    drawn, changed = True, False
                    due_s = time.monotonic() + _DRAW_EVERY_S
            ended = True
        finally:
            if not ended:
                view.failed()
            if ended or drawn or tells():
                screen.close(view.card())


@contextmanager
def _interruptible(operation: Operation[Any]) -> Iterator[None]:
    """Turn interrupts into calls of ``operation.interrupt``.

    A ``KeyboardInterrupt`` comes up between any two instructions, in the middle of a draw for instance, and would end
    the reading of events; a signal handler has no such effect.
    """
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread only
        yield
        return

    def interrupt(signum: int, frame: FrameType | None) -> None:
        operation.interrupt()

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        # None: a handler that was not set from Python, which cannot be put back
        signal.signal(signal.SIGINT, signal.default_int_handler if previous is None else previous)
