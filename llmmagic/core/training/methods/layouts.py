"""What the columns of preference data mean.

| method | columns |
| --- | --- |
| dpo | ``prompt`` (or ``question``, ...), ``chosen`` and ``rejected``; without a prompt, the messages that both share |
| kto | ``prompt``, ``completion`` (or ``answer``, ...) and ``label`` (or ``rating``): true and false, 1 and 0 or -1 |
| grpo | ``prompt``, or ``messages`` up to the last question; the other columns go to the reward functions |

Prompts and answers are texts or lists of messages. ``--map COLUMN=PART`` says what columns of other names mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmmagic.core.errors import ConfigError, DataFormatError, did_you_mean
from llmmagic.core.training.formats import EmptyRowError, cell_text, read_messages
from llmmagic.core.training.llama2 import Message
from llmmagic.core.training.sources import Table

PROMPT_NAMES = ("prompt", "question", "instruction", "query", "problem", "user", "human", "input")
NAMES: dict[str, tuple[str, ...]] = {
    "prompt": PROMPT_NAMES,
    "system": ("system", "system_prompt"),
    "chosen": ("chosen", "preferred", "better", "accepted"),
    "rejected": ("rejected", "dispreferred", "worse"),
    "completion": ("completion", "answer", "output", "response", "reply"),
    "label": ("label", "rating", "thumb", "good"),
    "messages": ("messages", "conversations"),
}
"""Part -> what columns that hold it are called, in order of preference."""

_GOOD = frozenset({"true", "1", "1.0", "+1", "yes", "good", "up", "👍", "thumbs_up"})
_BAD = frozenset({"false", "0", "0.0", "-1", "-1.0", "no", "bad", "down", "👎", "thumbs_down"})


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to the same messages.

    Attributes:
        prompt: What was said before.
        chosen: The better answer.
        rejected: The worse one.
    """

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer that was found good or bad.

    Attributes:
        prompt: What was said before.
        answer: The answer.
        good: What was thought of it.
    """

    prompt: tuple[Message, ...]
    answer: Message
    good: bool


def find_columns(
    table: Table, given: Mapping[str, str], *, needed: Sequence[str], optional: Sequence[str], wants: str
) -> dict[str, str]:
    """Find the columns of a method's data.

    Args:
        table: The rows.
        given: What the user says that columns mean: column -> part.
        needed: Parts that must be there.
        optional: Parts that may.
        wants: What the data should look like, for the message.

    Returns:
        Part -> column.

    Raises:
        ConfigError: A mapping that names an unknown column or part.
        DataFormatError: A part is missing; the message lists the columns.
    """
    parts = (*needed, *optional)
    found: dict[str, str] = {}
    for column, part in given.items():
        if column not in table.columns:
            hint = did_you_mean(column, table.columns) or f"Columns: {', '.join(table.columns)}."
            raise ConfigError(f"{table.source} has no column {column!r}.", hint=hint)
        if part not in parts:
            hint = did_you_mean(part, parts) or f"Known: {', '.join(parts)}."
            raise ConfigError(f"A column cannot be taken for {part!r}.", hint=hint)
        found[part] = column
    by_name = {column.lower(): column for column in reversed(table.columns) if column not in given}
    for part in parts:
        if part not in found and (name := next((n for n in NAMES[part] if n in by_name), None)):
            found[part] = by_name[name]
    if missing := [part for part in needed if part not in found]:
        raise DataFormatError(
            f"{table.source} has no {' and no '.join(missing)}: its columns are {', '.join(table.columns)}.",
            hint=f"{wants} Say what columns of other names mean: --map COLUMN={missing[0]}.",
        )
    return found


def pair_of(row: Mapping[str, Any], number: int, columns: Mapping[str, str]) -> Pair:
    """Understand a row of preferences.

    Raises:
        EmptyRowError: No prompt, or an answer is empty.
        DataFormatError: The two do not answer the same messages.
    """
    chosen = _answer(row.get(columns["chosen"]), number, "chosen")
    rejected = _answer(row.get(columns["rejected"]), number, "rejected")
    if chosen[:-1] != rejected[:-1]:
        raise DataFormatError(
            f"Row {number}: chosen and rejected differ before their last message.",
            hint="Both must answer the same messages.",
        )
    return Pair(_prompt(row, number, columns, chosen[:-1]), chosen[-1], rejected[-1])


def rated_of(row: Mapping[str, Any], number: int, columns: Mapping[str, str]) -> Rated:
    """Understand a row of ratings.

    Raises:
        EmptyRowError: No prompt or no answer.
        DataFormatError: A label that is neither good nor bad.
    """
    label = row.get(columns["label"])
    word = cell_text(label).lower()
    if word not in _GOOD and word not in _BAD:
        raise DataFormatError(
            f"Row {number} has the label {label!r}.", hint="It must be true or false, 1 or 0 (or -1), good or bad."
        )
    answer = _answer(row.get(columns["completion"]), number, "completion")
    return Rated(_prompt(row, number, columns, answer[:-1]), answer[-1], word in _GOOD)


def prompt_of(row: Mapping[str, Any], number: int, columns: Mapping[str, str]) -> tuple[Message, ...]:
    """Understand a row with a prompt that is still to be answered.

    Raises:
        EmptyRowError: No prompt.
    """
    if "prompt" in columns:
        return _prompt(row, number, columns, ())
    messages = _messages(row.get(columns["messages"]), number)
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise EmptyRowError(f"Row {number} has no prompt: no message is the user's.", hint=_LEAVE_OUT)
    return tuple(messages)


_LEAVE_OUT = "Remove the row, or leave such rows out (--allow empty-answer)."


def _prompt(
    row: Mapping[str, Any], number: int, columns: Mapping[str, str], shared: Sequence[Message]
) -> tuple[Message, ...]:
    """The messages before an answer: those that come with it say it all; else the prompt's column."""
    if shared and shared[0]["role"] != "assistant":
        return tuple(shared)
    value = row.get(columns.get("prompt", ""))
    if isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        messages = _messages(value, number)
    else:
        text = cell_text(value)
        messages = [{"role": "user", "content": text}] if text else []
    if not messages:
        raise EmptyRowError(f"Row {number} has no prompt.", hint=_LEAVE_OUT)
    system = cell_text(row.get(columns.get("system", "")))
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return (*messages, *shared)


def _answer(value: Any, number: int, part: str) -> list[Message]:
    """What is said before an answer in the same cell, and the answer."""
    if isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        messages = _messages(value, number)
        if messages and messages[-1]["role"] != "assistant":
            raise DataFormatError(f"Row {number}: {part} does not end with a message of the assistant.")
    else:
        messages = [{"role": "assistant", "content": cell_text(value)}]
    if not messages or not messages[-1]["content"]:
        raise EmptyRowError(f"Row {number} has no answer: {part!r} is empty.", hint=_LEAVE_OUT)
    return messages


def _messages(value: Any, number: int) -> list[Message]:
    """A list of messages, in OpenAI's keys or ShareGPT's."""
    rows = value.tolist() if hasattr(value, "tolist") else list(value or ())
    sharegpt = bool(rows) and isinstance(rows[0], Mapping) and "from" in rows[0]
    return read_messages(rows, number, ("from", "value") if sharegpt else ("role", "content"))
