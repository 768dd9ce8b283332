"""One message of the transcript as lines: who, what, and what can be done with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from llmmagic.core.chat.words import FINISH_NOTES
from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic_tui.widgets.transcript.markdown import Line, MarkdownDocument, plain
from llmmagic_tui.widgets.transcript.thinking import ReplyText

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmmagic.core.chat.messages import Message
    from llmmagic_tui.themes import Inks

Counter: TypeAlias = "Callable[[str], int]"
GUTTER = 2
_MEASURE = 110  # longer lines are hard to read
_THINKING_PREVIEW = 3  # lines that are shown of a thought while it is being written


class Hint(NamedTuple):
    """What the line below a selected message offers.

    Attributes:
        role: Whose messages it is for; empty for all.
        action: Of the screen.
        key: Id of the key; where it is offered, the key itself.
        words: What it says.
    """

    role: str
    action: str
    key: str
    words: str


HINTS: tuple[Hint, ...] = (
    Hint("", "copy", "copy", "copy"),
    Hint("user", "edit", "edit", "edit"),
    Hint("", "pin", "pin", "pin"),
    Hint("assistant", "rate(1)", "rate_good", "good"),
    Hint("assistant", "rate(-1)", "rate_bad", "bad"),
    Hint("assistant", "better", "better", "better"),
    Hint("assistant", "continue", "continue", "continue"),
    Hint("", "regenerate", "regenerate_this", "again"),
)


@dataclass(frozen=True)
class Look:
    """Everything besides the message itself that decides how it is drawn."""

    width: int
    inks: Inks
    branch: tuple[int, int] = (1, 1)
    out: bool = False
    leaving: bool = False
    unfolded: bool = False
    selected: bool = False
    live: bool = False
    rule: str = ""
    hints: tuple[Hint, ...] = ()
    count_tokens: Counter | None = None


class MessageBody:
    """The text of a message, parsed once, and bit by bit while it grows."""

    def __init__(self, message: Message) -> None:
        self.role = message.role
        self.source = message.content
        self._reply = ReplyText()
        self._document = MarkdownDocument()
        self._counted: tuple[Counter, str, int] | None = None
        self.append(message.content)

    @property
    def length(self) -> int:
        """Characters it has been given, after cleaning."""
        return len(self._reply.text)

    def append(self, text: str) -> None:
        """Let it grow."""
        clean = strip_controls(text)
        new = self._reply.append(clean)
        if self.role != "assistant":
            return
        if new is None:
            self._document = MarkdownDocument(self._reply.reply.answer)
        else:
            self._document.append(new)

    def lines(self, look: Look, width: int) -> list[Line]:
        """Draw it, ``width`` cells wide."""
        if self.role != "assistant":  # what a person typed is shown as typed
            return plain(self._reply.text, width, look.inks.text)
        reply = self._reply.reply
        if reply.open and reply.thinking is None and not look.live:  # it ended within what looked like a tag
            return plain(self._reply.text, width, look.inks.text)
        answer = self._document.lines(width, look.inks)
        thinking = self._thinking(look, width)
        return [*thinking, [], *answer] if thinking and answer else thinking or answer

    def _thinking(self, look: Look, width: int) -> list[Line]:
        thinking, _, unfinished = self._reply.reply
        if thinking is None:
            return []
        writing = unfinished and look.live
        mark = "▾" if look.unfolded else "▸"
        length = self._length_of(thinking, None if writing else look.count_tokens)
        head = f"{mark} {'thinking…' if writing else 'thinking'} · {length}"
        lines: list[Line] = [[Segment(head, look.inks.muted + Style.from_meta({"do": "fold"}))]]
        if not look.unfolded and not writing:
            return lines
        bar = Segment("┆ ", look.inks.faint)
        thought = [[bar, *line] for line in plain(thinking, width - 2, look.inks.muted)]
        return lines + (thought if look.unfolded else thought[-_THINKING_PREVIEW:])

    def _length_of(self, thinking: str, count: Counter | None) -> str:
        """In tokens; in words where no model is there to count, or each addition would have to be counted anew."""
        if count is None:
            words = len(thinking.split())
            return f"{words:,} {'word' if words == 1 else 'words'}"
        if self._counted is None or self._counted[:2] != (count, thinking):
            self._counted = (count, thinking, count(thinking))
        tokens = self._counted[2]
        return f"{tokens:,} {'token' if tokens == 1 else 'tokens'}"


def estimate(message: Message, width: int) -> int:
    """About how many lines a message takes: good enough for a scrollbar until it is drawn."""
    room = max(min(width, _MEASURE) - GUTTER - 1, 1)
    return 2 + message.content.count("\n") + len(message.content) // room + 1


def draw(message: Message, body: MessageBody, look: Look) -> list[Strip]:
    """Draw a message.

    Args:
        message: What is drawn.
        body: Its text.
        look: How.

    Returns:
        Its lines; the last one is blank, or offers actions when the message is selected.
    """
    width = max(min(look.width, _MEASURE) - GUTTER - 1, 1)
    inks = look.inks
    lines: list[Line] = []
    if look.rule:
        lines += [_rule(look), []]
    gutter = _gutter(message, look)
    rows = [_head(message, look, width), *body.lines(look, width)]
    if look.live and not body.length:
        rows.append([Segment("…", inks.muted)])
    if not look.live and message.finish_reason and (note := FINISH_NOTES.get(message.finish_reason)):
        rows.append([Segment(f"— {note}", inks.muted)])
    if message.better is not None:
        rows += [
            [],
            [Segment("Better answer:", inks.success)],
            *plain(strip_controls(message.better), width, inks.text),
        ]
    lines += [[gutter, *row] for row in rows]
    lines.append(_actions(look, width) if look.selected and look.hints else [])
    return [_strip(line, look) for line in lines]


def _strip(line: Line, look: Look) -> Strip:
    if look.out:
        # What the model no longer sees keeps its words and loses its colours.
        faint = Style(color=look.inks.faint.color)
        line = [Segment(text, (style or Style.null()) + faint, control) for text, style, control in line]
    return Strip(line)


def _gutter(message: Message, look: Look) -> Segment:
    inks = look.inks
    if look.selected:
        return Segment("█ ", inks.cursor)
    if look.leaving:
        return Segment("╎ ", inks.warning)
    ink = {"user": inks.user, "assistant": inks.assistant}.get(message.role, inks.system)
    return Segment("▎ ", ink)


def _head(message: Message, look: Look, width: int) -> Line:
    inks = look.inks
    name, ink = {"user": ("You", inks.user), "assistant": ("Assistant", inks.assistant)}.get(
        message.role, (message.role.capitalize(), inks.system)
    )
    left = [Segment(name, ink)]
    number, count = look.branch
    if count > 1:
        left += [
            Segment("  "),
            Segment("\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", inks.link + Style.from_meta({"do": "branch(-1)"})),
            Segment(f" {number}/{count} ", inks.text),
            Segment("\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}", inks.link + Style.from_meta({"do": "branch(1)"})),
        ]
    marks = [
        ("pinned", inks.pinned, message.pinned),
        ("rated good", inks.success, message.rating == 1),
        ("rated bad", inks.error, message.rating == -1),
        ("no longer seen", inks.muted, look.out),
        ("drops with this send", inks.warning, look.leaving),
    ]
    for words, style, applies in marks:
        if applies:
            left.append(Segment(f"  {words}", style))
    right = [message.created.astimezone().strftime("%H:%M")]
    if message.token_count is not None:
        right.insert(0, f"{message.token_count:,} tokens")
    if message.role == "assistant" and message.model_id and width >= 70:
        right.insert(0, one_line(message.model_id, 24))
    # From the right end, as much as fits.
    while right and sum(s.cell_length for s in left) + len(" · ".join(right)) + 2 > width:
        right.pop(0)
    text = " · ".join(right)
    gap = max(width - sum(segment.cell_length for segment in left) - len(text), 1)
    return [*left, Segment(" " * gap), Segment(text, inks.faint)]


def _rule(look: Look) -> Line:
    width = min(look.width, _MEASURE) - 1
    words = f" {look.rule} "[: max(width - 6, 0)]
    dashes = max(width - len(words) - 3, 0)
    return [
        Segment("╌╌╌", look.inks.warning),
        Segment(words, look.inks.warning),
        Segment("╌" * dashes, look.inks.warning),
    ]


def _actions(look: Look, width: int) -> Line:
    line: Line = [Segment(" " * GUTTER)]
    room = width
    for _, action, key, words in look.hints:
        cells = len(key) + len(words) + 3
        if cells > room:
            break
        room -= cells
        do = Style.from_meta({"do": action})
        line += [Segment(key, look.inks.link + do), Segment(f" {words}", look.inks.action + do), Segment("  ")]
    return line
