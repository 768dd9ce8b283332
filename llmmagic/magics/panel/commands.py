"""What the browser says to the kernel: commands, as JSON, typed, with a version.

``{"v": 1, "ref": 7, "type": "send", "text": "Hello"}``. Each is answered once with an `updates.Answer` of the same
``ref``: with an error, nothing has changed and what was typed stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeAlias, Union, get_type_hints

from llmmagic.core.errors import ConfigError, did_you_mean

VERSION = 1
_MOST_CHARACTERS = 2_000_000


@dataclass(frozen=True, slots=True)
class Hello:
    """The panel was drawn and knows nothing yet."""


@dataclass(frozen=True, slots=True)
class Bye:
    """The panel is no longer drawn: its cell was run again, or its output removed."""


@dataclass(frozen=True, slots=True)
class Send:
    """Say this."""

    text: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the reply that is being written."""


@dataclass(frozen=True, slots=True)
class Draft:
    """This is being typed: count it."""

    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """Say this instead of an earlier message."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Regenerate:
    """Another reply beside this one, or to this message."""

    id: str


@dataclass(frozen=True, slots=True)
class Continue:
    """Go on with a reply."""

    id: str


@dataclass(frozen=True, slots=True)
class Branch:
    """Go to the sibling so many steps away."""

    id: str
    step: int


@dataclass(frozen=True, slots=True)
class Pin:
    """Pin a message, or unpin it."""

    id: str


@dataclass(frozen=True, slots=True)
class Rate:
    """1 is good, -1 is bad; the same again takes it back."""

    id: str
    rating: int


@dataclass(frozen=True, slots=True)
class Better:
    """What the reply should have been; empty takes it back."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class System:
    """A system prompt from now on; empty leaves it to the model's template."""

    text: str


@dataclass(frozen=True, slots=True)
class Settings:
    """How replies are sampled from now on: names of `GenerationConfig` and numbers as typed; empty is the default."""

    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class New:
    """Show a new conversation."""


@dataclass(frozen=True, slots=True)
class Open:
    """Show a conversation of the session or of the store."""

    id: str


@dataclass(frozen=True, slots=True)
class List:
    """Say which conversations there are."""


Command: TypeAlias = Union[
    Hello, Bye, Send, Stop, Draft, Edit, Regenerate, Continue, Branch, Pin, Rate, Better, System, Settings, New, Open,
    List,
]  # fmt: skip
_COMMANDS: dict[str, type[Any]] = {
    cls.__name__.lower(): cls
    for cls in (
        Hello, Bye, Send, Stop, Draft, Edit, Regenerate, Continue, Branch, Pin, Rate, Better, System, Settings, New,
        Open, List,
    )
}  # fmt: skip


def parse_command(data: object) -> Command:
    """Read a command.

    Args:
        data: What the browser sent; nothing about it is taken for granted.

    Returns:
        The command.

    Raises:
        ConfigError: It is none.
    """
    if not isinstance(data, dict) or data.get("v") != VERSION:
        raise ConfigError("The panel was drawn by another version of llmmagic.", hint="Run its cell again.")
    name = data.get("type")
    if name not in _COMMANDS:
        raise ConfigError(f"No command {name!r}.", hint=did_you_mean(str(name), _COMMANDS))
    cls = _COMMANDS[name]
    hints = get_type_hints(cls)
    values = {}
    for field in fields(cls):
        value = data.get(field.name)
        if not _fits(value, hints[field.name]):
            raise ConfigError(f"The command {name!r} needs {field.name}, got {str(value)[:80]!r}.")
        values[field.name] = value
    command: Command = cls(**values)
    return command


def ref_of(data: object) -> int:
    """The number by which a command is answered; 0 if it has none."""
    ref = data.get("ref") if isinstance(data, dict) else None
    return ref if isinstance(ref, int) and not isinstance(ref, bool) else 0


def _fits(value: object, hint: object) -> bool:
    if hint is str:
        return isinstance(value, str) and len(value) <= _MOST_CHARACTERS
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, dict) and all(isinstance(each, str) for pair in value.items() for each in pair)
