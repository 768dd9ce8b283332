"""The messages between the panel in the browser and the kernel: JSON, typed, with a version.

The browser sends commands, ``{"v": 1, "ref": 7, "type": "send", "text": "Hello"}``. Each is answered once with an
`Answer` of the same ``ref``: with an error, nothing has changed and what was typed stays where it is. Everything else
that the kernel sends says how things are now.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, Union, get_type_hints

from llmmagic.core.errors import ConfigError, did_you_mean
from llmmagic.core.events import Role

VERSION = 1
_MOST_CHARACTERS = 2_000_000

Activity = Literal["none", "ready", "reading", "writing", "busy", "closed"]
"""none: no model. busy: the session does something else. closed: the extension was unloaded."""


# --- from the browser --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The panel was drawn and knows nothing yet."""


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
    Hello, Send, Stop, Draft, Edit, Regenerate, Continue, Branch, Pin, Rate, Better, System, Settings, New, Open, List
]
_COMMANDS: dict[str, type[Any]] = {
    cls.__name__.lower(): cls
    for cls in (
        Hello, Send, Stop, Draft, Edit, Regenerate, Continue, Branch, Pin, Rate, Better, System, Settings, New, Open,
        List,
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


# --- to the browser ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MessageView:
    """One message as it is drawn.

    Attributes:
        id: Of the message.
        role: Who says it.
        name: What stands above it.
        text: As written or generated; shown as it is, except for replies.
        html: Of a reply: its Markdown, made harmless.
        note: What stands beneath: why it ended early.
        better: What it should have been, in the user's words; empty if nobody said.
        facts: Tokens, time.
        pinned: Stays in the window.
        rating: 1, -1 or 0.
        branch: Which of how many siblings it is.
        actions: What can be done with it, in the order of the buttons.
    """

    id: str
    role: Role
    name: str
    text: str
    html: str
    note: str
    better: str
    facts: str
    pinned: bool
    rating: int
    branch: tuple[int, int]
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TalkView:
    """The conversation itself: its id, the name that cells reach it by, its title, its system prompt."""

    id: str
    name: str
    title: str
    system: str


@dataclass(frozen=True, slots=True)
class SettingView:
    """One setting: its name, its value as typed, what applies where it is empty, and what it does."""

    name: str
    value: str
    default: str
    help: str


@dataclass(frozen=True, slots=True)
class Status:
    """What is going on.

    Attributes:
        activity: In a word.
        text: In a sentence.
        model: What is loaded; empty if nothing is.
        can_send: Whether a message can be sent now.
        can_stop: Whether there is a reply of this conversation to stop.
    """

    activity: Activity
    text: str
    model: str
    can_send: bool
    can_stop: bool


@dataclass(frozen=True, slots=True)
class Window:
    """The context window, as exact as the core counts it.

    Attributes:
        segments: (kind, tokens, label), in the order of the prompt.
        legend: (kind, words, tokens).
        figures: ``"1,203 of 2,048 tokens (59%)"``; empty while nobody can count.
        forecast: What sending would drop.
        error: Why the draft cannot be sent.
        out: Messages that the model no longer sees.
        leaving: Messages that sending would drop.
        cut: What stands on the dashed line.
    """

    segments: tuple[tuple[str, int, str], ...] = ()
    legend: tuple[tuple[str, str, int], ...] = ()
    figures: str = ""
    forecast: str = ""
    error: str = ""
    out: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    cut: str = ""


@dataclass(frozen=True, slots=True)
class Path:
    """The messages, oldest first, and those of them that are new or have changed.

    Attributes:
        talk: The conversation; with another id than before, everything that is shown goes.
        ids: All that are shown.
        changed: What differs from what was sent before.
        live: The reply that is being written; empty if none is.
    """

    talk: TalkView
    ids: tuple[str, ...]
    changed: tuple[MessageView, ...]
    live: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A reply has grown.

    Attributes:
        id: Of the reply.
        settled: HTML of blocks that will not change any more; they go before the tail.
        cut: How much of the tail's HTML stays, in UTF-16 units, as JavaScript counts.
        add: What comes after that.
    """

    id: str
    settled: str
    cut: int
    add: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are sampled."""

    settings: tuple[SettingView, ...]


@dataclass(frozen=True, slots=True)
class TalkEntry:
    """A conversation in the list."""

    id: str
    title: str
    preview: str
    when: str
    shown: bool


@dataclass(frozen=True, slots=True)
class Talks:
    """The conversations that can be opened, last changed first."""

    entries: tuple[TalkEntry, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """Something the user should know now."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True)
class Answer:
    """A command was carried out, or why not."""

    ref: int
    error: str = ""


Update: TypeAlias = Union[Status, Window, Path, Stream, Sampling, Talks, Line, Answer]


def to_json(update: Update) -> dict[str, Any]:
    """An update as the browser gets it: ``{"v": 1, "type": "line", ...}``."""
    return {"v": VERSION, "type": type(update).__name__.lower(), **asdict(update)}
