"""Messages as lines: drawn when they come into view, and kept for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.reactive import reactive
from textual.strip import Strip

from llmmagic_tui.themes import Inks
from llmmagic_tui.widgets.transcript.markdown import plain
from llmmagic_tui.widgets.transcript.message import GUTTER, Counter, Hint, Look, MessageBody, draw, estimate
from llmmagic_tui.widgets.transcript.scrolling import SettlingScroll

if TYPE_CHECKING:
    from textual.selection import Selection

    from llmmagic.core.chat.messages import Message

_KEPT = 300  # drawn messages


@dataclass(frozen=True)
class WindowState:
    """Which messages the model does not see.

    Attributes:
        out: Ids of those it no longer sees.
        leaving: Ids of those that the next send drops.
        rule: What the line between the two worlds says.
    """

    out: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    rule: str = ""


@lru_cache(maxsize=4)  # asked for once per line of the screen, by the first frame above all
def _greeting(texts: tuple[str, ...], width: int, ink: Style) -> list[list[Segment]]:
    return [line for text in texts for line in plain(text, width, ink)]


class DrawnMessages(SettlingScroll):
    """Draws messages; which, and what can be done with them, is in `Transcript`."""

    cursor: reactive[int | None] = reactive(None)
    """Index of the message that keys act on."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._messages: list[Message] = []
        self._branch: Callable[[str], tuple[int, int]] = lambda _: (1, 1)
        self._window = WindowState()
        self._rule_at: str | None = None
        self._unfolded: set[str] = set()
        self._live: str | None = None
        self._bodies: OrderedDict[str, MessageBody] = OrderedDict()
        self._drawn: OrderedDict[str, tuple[tuple[object, ...], list[Strip]]] = OrderedDict()
        self._inks: Inks | None = None
        self._base = Style.null()
        self._count_tokens: Counter | None = None
        self.hints: tuple[Hint, ...] = ()
        """What is offered below the selected message."""
        self.welcome: tuple[str, ...] = ()
        """Lines for a conversation without messages."""

    def on_mount(self) -> None:
        """Learn the colours, now and whenever the theme changes."""
        self.app.theme_changed_signal.subscribe(self, lambda _: self._recolour())
        self._recolour()

    def _recolour(self) -> None:
        self._inks = Inks.of(self.app.get_css_variables())
        self._settle()

    def _count(self) -> int:
        return len(self._messages)

    def _estimate(self, index: int) -> int:
        return estimate(self._messages[index], self._width)

    def _height(self, index: int) -> int:
        return len(self._strips(index))

    def _can_measure(self) -> bool:
        return self._width > 0 and self._inks is not None

    def _body(self, message: Message) -> MessageBody:
        body = self._bodies.get(message.id)
        if body is None or (message.id != self._live and body.source is not message.content):
            body = self._bodies[message.id] = MessageBody(message)
            while len(self._bodies) > _KEPT:
                self._bodies.popitem(last=False)
        return body

    def _strips(self, index: int) -> list[Strip]:
        message = self._messages[index]
        assert self._inks is not None
        selected = index == self.cursor and self.has_focus
        look = Look(
            width=self._width,
            inks=self._inks,
            branch=self._branch(message.id),
            out=message.id in self._window.out,
            leaving=message.id in self._window.leaving,
            unfolded=message.id in self._unfolded,
            selected=selected,
            live=message.id == self._live,
            rule=self._window.rule if message.id == self._rule_at else "",
            hints=tuple(h for h in self.hints if h.role in ("", message.role)) if selected else (),
            count_tokens=self._count_tokens,
        )
        key = (message, look)
        drawn = self._drawn.get(message.id)
        if drawn is not None and drawn[0] == key:
            return drawn[1]
        strips = draw(message, self._body(message), look)
        self._drawn[message.id] = (key, strips)
        self._drawn.move_to_end(message.id)
        while len(self._drawn) > _KEPT:
            self._drawn.popitem(last=False)
        return strips

    def _line(self, y: int) -> Strip:
        if not self._messages and self.welcome and self._inks is not None:
            room = max(min(self._width, 64) - 2, 1)
            lines = _greeting(self.welcome, room, self._inks.muted)
            return Strip([Segment("  "), *lines[y - 1]]) if 1 <= y <= len(lines) else Strip([])
        if not 0 <= y < self._stack.height:
            return Strip([])
        index, within = self._stack.at(y)
        # What is on screen was drawn when it settled: looking that up again costs more than all else for a line.
        drawn = self._drawn.get(self._messages[index].id)
        strips = drawn[1] if drawn is not None else self._strips(index)
        return strips[within] if within < len(strips) else Strip([])

    def render_line(self, y: int) -> Strip:
        """One line of the screen."""
        line = int(self.scroll_y) + y
        width = self.size.width
        strip = self._line(line) if self._inks is not None else Strip([])
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(line)) is not None:
            strip = _selected(strip, span, self.screen.get_component_rich_style("screen--selection"))
        return _finished(strip, width, self._base, line)

    def render_lines(self, crop: Region) -> list[Strip]:
        """Lines of the screen; what they have in common is looked up once."""
        self._base = self.rich_style
        return super().render_lines(crop)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The text that the mouse has selected, without the marks at its left."""
        if not self._messages:
            return None
        first = selection.start.y if selection.start is not None else 0
        last = selection.end.y if selection.end is not None else self._stack.height - 1
        lines: list[str] = []
        for y in range(first, min(last, self._stack.height - 1) + 1):
            start, end = selection.get_span(y) or (0, 0)
            strip = self._line(y)
            cut = strip.crop(max(start, GUTTER), None if end == -1 else end)
            lines.append(cut.text.rstrip())
        return "\n".join(lines), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        """Draw the selection."""
        self.refresh()


def _finished(strip: Strip, width: int, base: Style, line: int) -> Strip:
    """A line as it goes to the screen: as wide as that, in its colours, each part with its place for selecting.

    What ``crop_extend``, ``apply_style`` and ``apply_offsets`` do, with one strip instead of four: they take longer to
    make than what is in them.
    """
    if strip.cell_length > width:
        strip = strip.crop(0, width)
    parts: list[Segment] = []
    column = 0
    for text, style, _ in strip:
        place = Style.from_meta({"offset": (column, line)})
        parts.append(Segment(text, base + style + place if style else base + place))
        column += len(text)
    if (rest := width - strip.cell_length) > 0:
        parts.append(Segment(" " * rest, base + Style.from_meta({"offset": (column, line)})))
    return Strip(parts, width)


def _selected(strip: Strip, span: tuple[int, int], style: Style) -> Strip:
    start, end = span
    end = strip.cell_length if end == -1 else min(end, strip.cell_length)
    start = min(max(start, GUTTER), end)
    before, inside, after = strip.crop(0, start), strip.crop(start, end), strip.crop(end)
    marked = [Segment(text, (ink or Style.null()) + style, control) for text, ink, control in inside]
    return Strip([*before, *marked, *after])
