"""Messages and conversations as rows of the database, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from llmmagic.core.chat.journal import Head
from llmmagic.core.chat.messages import Message, WindowMark
from llmmagic.core.sanitize import strip_controls

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
UNTITLED = "New conversation"
_MICROSECOND = timedelta(microseconds=1)
_TITLE_LENGTH, _PREVIEW_LENGTH = 60, 80
# What would read badly in a list: code fences, headings and quotes of Markdown, thinking, control characters.
_CLUTTER = re.compile(
    r"<think>.*?</think>|```\w*|^[#>\-*\s]+|[*`]{1,3}(?=\S)|(?<=\S)[*`]{1,3}", re.DOTALL | re.MULTILINE
)

HEAD_COLUMNS = ("id", "created", "updated", "title", "system", "leaf")
# Of conversations AS c, with messages AS last for the message at its leaf.
SUMMARY_COLUMNS = "c.id, c.title, c.first_words, c.created, c.updated, substr(last.content, 1, 400)"
MESSAGE_COLUMNS = (
    "id", "conversation", "parent", "role", "content", "created", "pinned", "token_count", "rating", "better",
    "finish_reason", "model_id", "window_start", "window_limit",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Summary:
    """A conversation in a list.

    Attributes:
        id: Of the conversation.
        title: The one it was given, else the beginning of its first user message.
        last_text: Beginning of its last message.
        created: When it began, in UTC.
        updated: When a message was last added or grew, in UTC.
    """

    id: str
    title: str
    last_text: str
    created: datetime
    updated: datetime

    @property
    def preview(self) -> str:
        """A line made of its last message; made when it is asked for, as lists are long and screens are short."""
        return first_words(self.last_text, _PREVIEW_LENGTH)


def to_microseconds(moment: datetime) -> int:
    """Microseconds since 1970, UTC."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """The moment, in UTC."""
    return _EPOCH + value * _MICROSECOND


def head_row(head: Head) -> tuple[Any, ...]:
    """Values for `HEAD_COLUMNS`."""
    created, updated = to_microseconds(head.created), to_microseconds(head.updated)
    return (head.id, created, updated, head.title, head.system, head.leaf)


def head_of(row: Sequence[Any]) -> Head:
    """From values of `HEAD_COLUMNS`."""
    id_, created, updated, title, system, leaf = row
    return Head(id_, from_microseconds(created), from_microseconds(updated), title, system, leaf)


def message_row(conversation_id: str, message: Message) -> tuple[Any, ...]:
    """Values for `MESSAGE_COLUMNS`."""
    m, mark = message, message.mark
    return (
        m.id, conversation_id, m.parent, m.role, m.content, to_microseconds(m.created), m.pinned, m.token_count,
        m.rating, m.better, m.finish_reason, m.model_id, mark and mark.start_id, mark and mark.context_window,
    )  # fmt: skip


def message_of(row: Sequence[Any]) -> Message:
    """From values of `MESSAGE_COLUMNS`."""
    id_, _, parent, role, content, created, pinned, tokens, rating, better, finish, model, start, limit = row
    return Message(
        id=id_,
        role=role,
        content=content,
        created=from_microseconds(created),
        parent=parent,
        pinned=bool(pinned),
        token_count=tokens,
        rating=rating,
        better=better,
        finish_reason=finish,
        model_id=model,
        mark=None if start is None else WindowMark(start, limit),
    )


def first_words(text: str, length: int = _TITLE_LENGTH) -> str:
    """A line for a list, made of the beginning of a text.

    Args:
        text: Markdown, untrusted.
        length: At most so many characters.

    Returns:
        Printable words without markup, cut at a word with ``…``.
    """
    # Whole sequences first: without its escape character the rest of one would stand there as words.
    plain = _CLUTTER.sub(" ", strip_controls(text[: 20 * length]))
    line = " ".join("".join(char if char.isprintable() else " " for char in plain).split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    words = cut.rpartition(" ")[0] if line[length - 1] != " " else cut
    return (words if len(words) > length // 2 else cut).rstrip(" ,;:.-") + "…"


def summary_of(row: Sequence[Any]) -> Summary:
    """From values of `SUMMARY_COLUMNS`."""
    id_, title, words, created, updated, last_text = row
    return Summary(
        id_,
        title=title or words or UNTITLED,
        last_text=last_text or "",
        created=from_microseconds(created),
        updated=from_microseconds(updated),
    )
