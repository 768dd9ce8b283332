"""The rows of the window's detail view: drawn when they come into view, so that ten thousand are there at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from llmmagic.core.sanitize import one_line
from llmmagic_tui.themes import Inks

_TITLES = ("#", "who", "tokens", "share", "window", "text")
_WIDTHS = (6, 9, 9, 7, 15)  # the text gets what is left
_RIGHT = (True, False, True, True, False, False)
_GAP = "  "
_ABOVE = 3  # rows that stay in sight above the one that it is opened at


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        who: Role of the message, or what else takes tokens.
        tokens: How many; ``None`` if they are still to be counted, or there are none to count.
        ink: Name of one of the `Inks`.
        number: Of the message, from 1; 0 for what is no message.
        state: ``in``, ``out`` and so on.
        text: The message.
        message_id: Of the message.
    """

    who: str
    tokens: int | None
    ink: str
    number: int = 0
    state: str = ""
    text: str = ""
    message_id: str = ""


def _line(cells: Sequence[str], width: int) -> str:
    """Cells side by side, figures at the right of theirs."""
    fields = [
        f"{cell:>{size}}" if right else f"{one_line(cell, size):<{size}}"
        for cell, size, right in zip(cells, _WIDTHS, _RIGHT, strict=False)
    ]
    line = _GAP.join(fields) + _GAP
    return line + one_line(cells[-1], max(width - len(line), 0))


class TableHead(Widget):
    """The names of the columns."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "TableHead { height: 1; }"

    def render_line(self, y: int) -> Strip:
        """Draw it."""
        inks = Inks.of(self.app.get_css_variables())
        width = self.size.width
        strip = Strip([Segment(_line(_TITLES, width), inks.bold)])
        return strip.crop_extend(0, width, self.rich_style).apply_style(self.rich_style)


class WindowTable(ScrollView, can_focus=True):
    """Rows of figures, as many as there are messages."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "WindowTable { height: 1fr; }"

    def __init__(self, context_window: int, rows: Sequence[Row], *, first: int = 0, exact: bool = True) -> None:
        """Set the rows.

        Args:
            context_window: What shares are shares of, in tokens.
            rows: From top to bottom.
            first: The row that it opens at.
            exact: Whether the tokens are counted; estimates get a ``~``.
        """
        super().__init__()
        self.rows = list(rows)
        self._limit = context_window
        self._first = first
        self._about = "" if exact else "~"
        self._counted: dict[str, int] = {}

    def on_mount(self) -> None:
        """Go to the first row of interest once there is a size."""
        self.virtual_size = Size(0, len(self.rows))
        self.call_after_refresh(self.scroll_to, y=max(self._first - _ABOVE, 0), animate=False)

    def count(self, tokens: Mapping[str, int]) -> None:
        """Fill in what was not known before.

        Args:
            tokens: Tokens by message id.
        """
        self._counted.update(tokens)
        self.refresh()

    def cells(self, index: int) -> tuple[str, ...]:
        """What a row says, by column."""
        row = self.rows[index]
        tokens = self._counted.get(row.message_id) if row.tokens is None else row.tokens
        figure = "…" if tokens is None and row.message_id else "" if tokens is None else f"{self._about}{tokens:,}"
        share = "" if tokens is None else f"{100 * tokens / self._limit:.1f}%"
        return (str(row.number or ""), row.who, figure, share, row.state, row.text)

    def render_line(self, y: int) -> Strip:
        """Draw one row."""
        width = self.scrollable_content_region.width
        index = y + self.scroll_offset.y
        if index >= len(self.rows):
            return Strip.blank(width, self.rich_style)
        inks = Inks.of(self.app.get_css_variables())
        style: Style = getattr(inks, self.rows[index].ink)
        row = self.rows[index]
        text = _line(self.cells(index), width) if row.who else f"╌╌╌ {row.text} ".ljust(width, "╌")
        strip = Strip([Segment(text, style)])
        return strip.crop_extend(0, width, self.rich_style).apply_style(self.rich_style)
