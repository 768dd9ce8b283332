"""What the kernel says to the browser: how things are now, as JSON, typed, with a version."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, Union

from llmmagic.core.events import Role
from llmmagic.magics.panel.commands import VERSION

Activity = Literal["none", "ready", "reading", "writing", "busy", "closed"]
"""none: no model. busy: the session does something else. closed: the extension was unloaded."""


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
