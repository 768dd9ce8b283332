"""A long operation as an iterator of events: started at once, cancellable at any moment, never half-finished.

The work runs in a thread of its own and the caller reads its events from a queue. So an interrupt (Ctrl+C, the ■ of a
notebook) never lands inside a KV cache update or an optimizer step: it only sets the cancel token, and the work ends at
its next safe point.
"""

from __future__ import annotations

import atexit
import queue
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from llmmagic.core.errors import EngineError

E = TypeVar("E")
_POLL_S = 0.2  # Windows does not deliver Ctrl+C to a thread that waits without a timeout
_EXIT_S = 10.0


class CancelToken:
    """Says that an operation should end. Safe to use from any thread.

    The first request asks for an end at the next safe point (token, optimizer step); a forced one for an end as soon as
    Python runs again (in the middle of a step).
    """

    def __init__(self) -> None:
        self._requested = threading.Event()
        self._forced = threading.Event()

    def request(self, *, force: bool = False) -> None:
        """Ask the operation to end."""
        if force:
            self._forced.set()
        self._requested.set()

    @property
    def requested(self) -> bool:
        """Whether the operation should end at its next safe point."""
        return self._requested.is_set()

    @property
    def forced(self) -> bool:
        """Whether it should end at once, even if that loses the step it is in."""
        return self._forced.is_set()

    def check(self) -> None:
        """Leave an operation that can be left here.

        Raises:
            CancelledOperation: An end was asked for.
        """
        if self.requested:
            raise CancelledOperation


class CancelledOperation(Exception):  # not an error: the session turns it into an event
    """Raised inside an operation that was cancelled before it had a result."""


@dataclass(frozen=True)
class _End:
    """The last item of the queue: the error that ended the work, if any."""

    error: BaseException | None


_running: weakref.WeakSet[Operation[Any]] = weakref.WeakSet()


class Operation(Iterator[E]):
    """Events of work that is already running.

    Iterate over it, or call `wait` for the last event. Ctrl+C while waiting cancels the work and goes on to its last
    events; a second Ctrl+C raises ``KeyboardInterrupt``. Leaving a loop over it early cancels it too.

    Example:
        >>> from llmmagic import Session
        >>> session = Session()
        >>> session.load("tiny-random").wait().info.model_id
        'tiny-random'
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Callable[[E], None], CancelToken], E],
        *,
        on_end: Callable[[], None],
        background: bool = False,
    ) -> None:
        """Start the work.

        Args:
            name: What it is called in messages: ``"load"``, ``"train"``.
            work: Called in a thread with an ``emit`` for events and the cancel token; returns the last event.
            on_end: Called in that thread when the work is over, before the last event can be read: whoever reads that
                finds the session free.
            background: Nobody waits for its events: dropping it cancels it without a warning.
        """
        self.name = name
        self.token = CancelToken()
        self._events: queue.SimpleQueue[E | _End] = queue.SimpleQueue()
        self._ended = False
        self._iterated = background
        # The thread must not hold the operation: dropping the last reference to it is how a loop is left.
        self._thread = threading.Thread(
            target=_run, args=(work, self._events, self.token, on_end), name=f"llmmagic-{name}", daemon=True
        )
        _running.add(self)
        self._thread.start()

    def __iter__(self) -> Operation[E]:
        return self

    def __next__(self) -> E:
        self._iterated = True
        if self._ended:
            raise StopIteration
        item = self._get()
        if not isinstance(item, _End):
            return item
        self._finish(item)
        raise StopIteration

    def _get(self) -> E | _End:
        while True:
            try:
                return self._events.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            except KeyboardInterrupt:
                self.interrupt()

    def ticking(self, every_s: float) -> Iterator[E | None]:
        """The events, for a shell that redraws while it waits.

        Args:
            every_s: How long to wait for an event.

        Yields:
            Each event, and ``None`` whenever `every_s` has passed without one.

        Raises:
            LLMMagicError: What the work raised.
            KeyboardInterrupt: At the second Ctrl+C.
        """
        while not self._ended:
            self._iterated = True
            try:
                item: E | _End | None = self._events.get(timeout=every_s)
            except queue.Empty:
                item = None
            except KeyboardInterrupt:
                self.interrupt()
                item = None
            if isinstance(item, _End):
                self._finish(item)
            else:
                yield item

    def _finish(self, end: _End) -> None:
        self._ended = True
        self._thread.join()
        if end.error is not None:
            raise end.error

    def interrupt(self) -> None:
        """What Ctrl+C does: the first asks for an end at the next safe point, the second ends at once.

        Raises:
            KeyboardInterrupt: At the second call.
        """
        if self.token.requested:
            self.token.request(force=True)
            raise KeyboardInterrupt
        self.token.request()

    def cancel(self, *, force: bool = False) -> None:
        """Ask the work to end; its last events can still be read. Safe to call from any thread."""
        self.token.request(force=force)

    def wait(self) -> E:
        """Read all events.

        Returns:
            The last one.

        Raises:
            LLMMagicError: What the work raised.
            EngineError: The operation was read to its end before.
        """
        last: E | None = None
        for event in self:
            last = event
        if last is None:
            raise EngineError(f"The {self.name} operation was already read to its end.")
        return last

    def join(self) -> None:
        """Wait until the work is over, without reading its events or raising what it raised."""
        self._thread.join()

    @property
    def running(self) -> bool:
        """Whether the work goes on."""
        return self._thread.is_alive()

    def __del__(self) -> None:
        if self.__dict__.get("_ended", True):
            return
        self.token.request()
        if not self._iterated and self._thread.is_alive():
            warnings.warn(
                f"A running {self.name} operation was dropped and is cancelled: iterate over it, or call .wait().",
                ResourceWarning if sys.is_finalizing() else RuntimeWarning,
                stacklevel=2,
            )


def _run(
    work: Callable[[Callable[[E], None], CancelToken], E],
    events: queue.SimpleQueue[E | _End],
    token: CancelToken,
    on_end: Callable[[], None],
) -> None:
    error: BaseException | None = None
    try:
        last = work(events.put, token)
    except BaseException as err:  # whatever it is, it is raised again where the events are read
        error = err
    on_end()
    if error is None:
        events.put(last)
    events.put(_End(error))


@atexit.register
def _stop_all() -> None:
    """End what still runs when the interpreter exits: torch in a daemon thread would crash on the way out."""
    for operation in list(_running):
        operation.token.request(force=True)
    for operation in list(_running):
        operation._thread.join(timeout=_EXIT_S)
