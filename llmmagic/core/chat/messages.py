"""One message of a conversation: a value that never changes. A change is a new value of the same id."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone

from llmmagic.core.events import FinishReason, Role

_id_lock = threading.Lock()
_last_time_ns = 0


def new_id() -> str:
    """A unique name that sorts by when it was made.

    Returns:
        16 hexadecimal digits of the time in nanoseconds, never the same twice in a process, then 8 random ones against
        other processes.
    """
    global _last_time_ns
    with _id_lock:
        # Clocks stand still (Windows ticks every 15 ms) and go back: ids must not.
        _last_time_ns = max(time.time_ns(), _last_time_ns + 1)
        return f"{_last_time_ns:016x}{secrets.token_hex(4)}"


def writable(text: str) -> str:
    """A text that can be encoded and stored.

    Half a character, as broken clipboards deliver it, and NUL, where databases end a text, become replacement signs.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class WindowMark:
    """Where the context window began when a message was sent.

    Attributes:
        start_id: The oldest message that was still in the rolling part; older ones had been dropped, unless pinned.
        context_window: The limit in tokens that it was planned for. With another limit the mark says nothing.
    """

    start_id: str
    context_window: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Attributes:
        id: Unique; later messages have larger ids.
        role: Who says it.
        content: The text as written or generated, thinking parts included.
        created: When, in UTC.
        parent: Id of the message it answers or follows; ``None`` at a root.
        pinned: Kept in the context window when older turns are dropped.
        token_count: Tokens of the content alone, as counted when it was generated; ``None`` if nobody has.
        rating: 1 for a good reply, -1 for a bad one.
        better: The reply the user would have wanted, in their own words.
        finish_reason: Why a reply ended; ``None`` for messages that were not generated.
        model_id: Which model wrote it, its adapter after a ``+``.
        mark: Where the context window began when this message was sent; ``None`` when nothing had been dropped.
    """

    id: str
    role: Role
    content: str
    created: datetime = field(default_factory=now)
    parent: str | None = None
    pinned: bool = False
    token_count: int | None = None
    rating: int | None = None
    better: str | None = None
    finish_reason: FinishReason | None = None
    model_id: str | None = None
    mark: WindowMark | None = None

    @property
    def partial(self) -> bool:
        """Whether the reply was stopped before its end: by the user, or because the program died."""
        return self.finish_reason == "cancelled"
