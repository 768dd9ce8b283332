"""Searching messages: what a person types, as a query; what the database answers, as an excerpt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmmagic.core.chat.records import Summary, summary_of

_AROUND = 80  # characters before and after words in an excerpt
_BEGIN, _END = "\ue000", "\ue001"  # around found words; for private use, so hardly in a text
# Scripts without spaces between words: Thai to Khmer, kana to Hangul, ideographs.
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that was searched for.

    Attributes:
        conversation: Summary of the conversation it is in.
        message_id: Of the message.
        role: Who said it.
        excerpt: The part of the message around the words.
        marks: Where the words are in the excerpt, as (begin, end) in characters.
    """

    conversation: Summary
    message_id: str
    role: str
    excerpt: str
    marks: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Query:
    """Parts of an SQL statement.

    Attributes:
        source: Where messages AS m come from.
        condition: Which of them; takes `value`.
        value: What is looked for.
        excerpt: Text that `hit_of` makes an excerpt of.
        order: By what they are sorted.
    """

    source: str
    condition: str
    value: str
    excerpt: str
    order: str


def query_for(words: str) -> Query | None:
    """Make a query of what a person types.

    Args:
        words: Taken literally. The last one may be the beginning of a word, unless a space follows.

    Returns:
        The query; ``None`` where there is nothing to look for.
    """
    if not words.strip():
        return None
    if _NO_SPACES.search(words):
        # The index knows words, and there it takes a whole sentence for one: look through all messages.
        escaped = re.sub(r"([\\%_])", r"\\\1", words.strip())
        return Query("messages AS m", "m.content LIKE ? ESCAPE '\\'", f"%{escaped}%", "m.content", "m.seq")
    # Quoted, each is cut into words as the messages were; one that has none is left out by SQLite.
    phrases = ['"{}"'.format(phrase.replace('"', '""')) for phrase in words.split()]
    return Query(
        source="words JOIN messages AS m ON m.seq = words.rowid",
        condition="words MATCH ?",
        value=" ".join(phrases) + ("" if words[-1].isspace() else "*"),
        excerpt=f"snippet(words, 0, '{_BEGIN}', '{_END}', '…', 24)",
        order="words.rowid",
    )


def hit_of(row: Sequence[Any], words: str) -> Hit:
    """From a message's id, role and text, and the summary of its conversation."""
    message_id, role, text, *summary = row
    if _BEGIN not in text:  # found without the index
        at, end = found.span() if (found := re.search(re.escape(words), text, re.IGNORECASE)) else (0, 0)
        begin = max(at - _AROUND, 0)
        text = f"{'…' if begin else ''}{text[begin:at]}{_BEGIN}{text[at:end]}{_END}{text[end : end + _AROUND]}"
    excerpt, marks, opened = "", [], 0
    for part in re.split(f"([{_BEGIN}{_END}])", " ".join(text.split())):
        if part == _BEGIN:
            opened = len(excerpt)
        elif part == _END:
            marks.append((opened, len(excerpt)))
        else:
            excerpt += part
    return Hit(summary_of(summary), message_id, role, excerpt, tuple(marks))
