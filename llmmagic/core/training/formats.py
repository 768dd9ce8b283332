"""What the columns of a table mean: every known format becomes messages or plain text.

| format | columns |
| --- | --- |
| messages | ``messages``: a list of ``role`` and ``content`` |
| conversations | ``conversations``: a list of ``from`` (human, gpt, system) and ``value`` (ShareGPT) |
| question/answer, prompt/completion, ... | one column asks, one answers; optionally one holds a system prompt |
| instruction/input/output | Alpaca and Dolly; the input is appended to the instruction |
| llama-2 text | ``text`` with ``[INST] .. [/INST]``, read back into messages |
| text | ``text``: no question, no answer; all of it is trained on |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from llmmagic.core.errors import ConfigError, DataFormatError, did_you_mean
from llmmagic.core.training.llama2 import Message, looks_like_llama2, parse_llama2
from llmmagic.core.training.sources import Table

Part = Literal["messages", "conversations", "system", "prompt", "input", "completion", "text"]
"""What a column can be taken for; ``--map question=prompt,answer=completion`` names them."""

# In order of preference: a table with "question" and "input" asks with "question".
_PROMPTS = ("prompt", "question", "instruction", "query", "problem", "user", "human", "input")
_COMPLETIONS = ("completion", "answer", "output", "response", "solution", "reply", "assistant")
_INPUTS = ("input", "context")
_SYSTEMS = ("system", "system_prompt")
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant"}
_SNIFFED_ROWS = 20


class EmptyRowError(DataFormatError):
    """A row without a question, an answer or a text. It can be left out if the user says so."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One row, understood: either messages that end with an answer, or a text.

    Attributes:
        row: Number of the row, counted from 1.
        messages: Role and content; empty for plain text.
        text: Plain text; empty for messages.
    """

    row: int
    messages: tuple[Message, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a table are read.

    Attributes:
        format: Its name, for people.
        columns: Which column is taken for what.
    """

    format: str
    columns: Mapping[str, Part]

    def column(self, part: Part) -> str | None:
        """The column that is taken for a part, if any."""
        return next((column for column, known in self.columns.items() if known == part), None)

    def sample(self, row: Mapping[str, Any], number: int) -> Sample:
        """Understand one row.

        Args:
            row: Column -> value.
            number: Of the row, counted from 1, for error messages.

        Raises:
            DataFormatError: No answer, or not what the layout says; the message names the row.
        """
        if "messages" in self.columns.values():
            return _from_list(row, number, self.column("messages"), ("role", "content"))
        if "conversations" in self.columns.values():
            return _from_list(row, number, self.column("conversations"), ("from", "value"))
        if "text" in self.columns.values():
            return self._from_text(row, number)
        return self._from_pair(row, number)

    def _from_text(self, row: Mapping[str, Any], number: int) -> Sample:
        column = self.column("text") or "text"
        text = cell_text(row.get(column))
        if not text:
            raise EmptyRowError(f"Row {number} is empty: column {column!r} holds no text.", hint=_SKIP)
        if self.format != "llama-2 text":
            return Sample(number, text=text)
        try:
            return _checked(parse_llama2(text), number)
        except ValueError as err:
            raise DataFormatError(f"Row {number} is no Llama-2 prompt like the others: {err}.") from err

    def _from_pair(self, row: Mapping[str, Any], number: int) -> Sample:
        asked, answered = self.column("prompt") or "", self.column("completion") or ""
        prompt, completion = row.get(asked), row.get(answered)
        if isinstance(prompt, list) or isinstance(completion, list):  # TRL's conversational prompt/completion
            return _checked([*read_messages(prompt, number), *read_messages(completion, number)], number)
        if not cell_text(prompt):
            raise EmptyRowError(f"Row {number} has no question: column {asked!r} is empty.", hint=_SKIP)
        if not cell_text(completion):
            raise EmptyRowError(f"Row {number} has no answer: column {answered!r} is empty.", hint=_NO_ANSWER)
        parts = [cell_text(prompt), cell_text(row.get(self.column("input") or ""))]
        messages = [{"role": "user", "content": "\n\n".join(part for part in parts if part)}]
        system = cell_text(row.get(self.column("system") or ""))
        if system:
            messages.insert(0, {"role": "system", "content": system})
        return _checked([*messages, {"role": "assistant", "content": cell_text(completion)}], number)


_NO_ANSWER = "Without an answer there is nothing to learn: give it one, or leave such rows out (--allow empty-answer)."
_SKIP = "Remove the row, or leave such rows out (--allow empty-answer)."


def detect_layout(table: Table, columns: Mapping[str, str] | None = None) -> Layout:
    """Find out how to read a table.

    Args:
        table: The rows.
        columns: What the user says that columns mean: column -> part. Overrides all guessing.

    Returns:
        The layout.

    Raises:
        DataFormatError: No known format; the message lists the columns.
        ConfigError: A mapping that names an unknown column or part, or that does not add up.
    """
    if columns:
        return _explicit(table, columns)
    by_name = {column.lower(): column for column in reversed(table.columns)}
    for part in ("messages", "conversations"):
        if part in by_name:
            return _list_layout(table, by_name[part])
    prompt, completion = _first(by_name, _PROMPTS), _first(by_name, _COMPLETIONS)
    if prompt and completion:
        found: dict[str, Part] = {prompt: "prompt", completion: "completion"}
        extra = _first(by_name, _INPUTS) if prompt.lower() == "instruction" else None
        if extra:
            found[extra] = "input"
        system = _first(by_name, _SYSTEMS)
        if system:
            found[system] = "system"
        names = [prompt, *([extra] if extra else []), completion]
        return Layout("/".join(name.lower() for name in names), found)
    if "text" in by_name:
        return _text_layout(table, by_name["text"])
    raise DataFormatError(
        f"No known format: {table.source} has the columns {', '.join(table.columns)}.",
        hint="Say what they mean (--map COLUMN=prompt,COLUMN=completion), or name them question and answer, prompt and "
        "completion, instruction and output, messages, conversations or text.",
    )


def _explicit(table: Table, columns: Mapping[str, str]) -> Layout:
    found: dict[str, Part] = {}
    for column, part in columns.items():
        if column not in table.columns:
            hint = did_you_mean(column, table.columns) or f"Columns: {', '.join(table.columns)}."
            raise ConfigError(f"{table.source} has no column {column!r}.", hint=hint)
        known = next((name for name in get_args(Part) if name == part), None)
        if known is None:
            hint = did_you_mean(part, get_args(Part)) or f"Known: {', '.join(get_args(Part))}."
            raise ConfigError(f"A column cannot be taken for {part!r}.", hint=hint)
        if known in found.values():
            raise ConfigError(f"Two columns are taken for {part!r}.")
        found[column] = known
    parts = set(found.values())
    if parts == {"text"}:
        return _text_layout(table, next(iter(found)))
    if parts in ({"messages"}, {"conversations"}):
        return Layout(parts.pop(), found)
    if {"prompt", "completion"} <= parts <= {"system", "prompt", "input", "completion"}:
        return Layout("prompt/completion", found)
    raise ConfigError(
        f"The columns are taken for {', '.join(sorted(parts))}, which is no format.",
        hint="Map to prompt and completion (and input, system), or to messages, conversations or text alone.",
    )


def _first(by_name: Mapping[str, str], wanted: tuple[str, ...]) -> str | None:
    return next((by_name[name] for name in wanted if name in by_name), None)


def _text_layout(table: Table, column: str) -> Layout:
    texts = [cell_text(table.rows[i].get(column)) for i in range(min(len(table.rows), _SNIFFED_ROWS))]
    llama2 = any(looks_like_llama2(text) for text in texts)
    return Layout("llama-2 text" if llama2 else "text", {column: "text"})


def _list_layout(table: Table, column: str) -> Layout:
    """ShareGPT is known by its keys: data sets use both names for both."""
    value = table.rows[0].get(column)
    first = value[0] if isinstance(value, list) and value else {}
    sharegpt = isinstance(first, Mapping) and "from" in first
    return Layout("conversations" if sharegpt else "messages", {column: "conversations" if sharegpt else "messages"})


def _from_list(row: Mapping[str, Any], number: int, column: str | None, keys: tuple[str, str]) -> Sample:
    value = row.get(column or "")
    if value is not None and hasattr(value, "tolist"):  # an array, as pandas reads lists from Parquet
        value = value.tolist()
    if not isinstance(value, list) or not value:
        raise EmptyRowError(f"Row {number} has no messages: column {column!r} is empty or no list.", hint=_SKIP)
    return _checked(read_messages(value, number, keys), number)


def read_messages(value: Any, number: int, keys: tuple[str, str] = ("role", "content")) -> list[Message]:
    """A cell that holds a conversation.

    Args:
        value: A list of mappings.
        number: Of the row, for error messages.
        keys: What the role and the text are called.

    Raises:
        DataFormatError: Something in it is no message.
    """
    if isinstance(value, str):
        raise DataFormatError(f"Row {number} mixes a list of messages with a text.")
    messages: list[Message] = []
    for place, item in enumerate(value or [], start=1):
        if not isinstance(item, Mapping) or keys[0] not in item:
            raise DataFormatError(
                f"Row {number}, message {place} is no message.", hint=f"It needs {' and '.join(keys)}."
            )
        role = str(item[keys[0]])
        role = _ROLES.get(role.lower(), role.lower())
        if role not in ("system", "user", "assistant", "tool"):
            raise DataFormatError(
                f"Row {number}, message {place} has the role {item[keys[0]]!r}.",
                hint="Roles are system, user, assistant and tool (human and gpt mean user and assistant).",
            )
        messages.append({"role": role, "content": _content(item.get(keys[1]))})
    return messages


def _checked(messages: list[Message], number: int) -> Sample:
    """Cut what follows the last answer: nothing there is learnt."""
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages:
        raise EmptyRowError(f"Row {number} has no answer: no message is the assistant's.", hint=_NO_ANSWER)
    for place, message in enumerate(messages, start=1):
        if message["role"] == "assistant" and not message["content"]:
            raise EmptyRowError(f"Row {number} has no answer: message {place} is empty.", hint=_NO_ANSWER)
    return Sample(number, messages=tuple(messages))


def _content(value: Any) -> str:
    if isinstance(value, list):  # the parts of a multimodal message: only text can be trained on here
        return "\n".join(cell_text(part.get("text")) for part in value if isinstance(part, Mapping)).strip()
    return cell_text(value)


def cell_text(value: Any) -> str:
    """A cell as text: None and NaN are empty, numbers are written out."""
    if value is None or value != value:
        return ""
    return str(value).strip()
