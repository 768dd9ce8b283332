"""The context window in detail: one row a message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Label, Static

from llmmagic.core.sanitize import one_line
from llmmagic_tui.themes import Inks
from llmmagic_tui.widgets.context_bar import ContextBar

if TYPE_CHECKING:
    from llmmagic.core.chat.messages import Message
    from llmmagic.core.events import WindowReport

_COLUMNS = 54  # cells that the columns before the text take, with the space around each
_LEAST_TEXT = 12
_FRAME = {"template": "template", "system": "system", "draft": "draft", "reserve": "reserve", "free": "free"}


class ContextScreen(ModalScreen[None]):
    """Every message with its exact tokens: in or out, and its share of the window."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f2", "app.pop_screen", "Close", id="context_close", priority=True)
    ]

    def __init__(self, report: WindowReport, messages: Sequence[Message], system: str | None) -> None:
        """Set what is shown.

        Args:
            report: The figures.
            messages: The active path.
            system: The system prompt of the conversation, if it has one of its own.
        """
        super().__init__()
        self._report, self._messages, self._system = report, messages, system

    def compose(self) -> ComposeResult:
        """Sums, bar, table."""
        with Vertical(classes="dialog -wide"):
            yield Label("Context window", classes="dialog-title", markup=False)
            yield Static(Text(self._summary()), classes="dialog-note")
            yield ContextBar()
            yield DataTable(cursor_type="row", zebra_stripes=True, id="rows")

    def _summary(self) -> str:
        report = self._report
        return (
            f"{report.prompt_tokens:,} tokens of prompt + {report.reserve_tokens:,} kept for the reply "
            f"+ {report.free_tokens:,} free = {report.context_window:,}"
        )

    def on_mount(self) -> None:
        """Show the sums; the table needs its width first, which it has once it is laid out."""
        self.query_one(ContextBar).show(self._report)
        self.query_one(DataTable).focus()
        self.call_after_refresh(self._fill)

    def _fill(self) -> None:
        """Fill the table and go to its end: the newest messages are the interesting ones."""
        table = self.query_one(DataTable)
        self._room = max(table.size.width - table.styles.scrollbar_size_vertical - _COLUMNS, _LEAST_TEXT)
        table.add_column("#", width=4)
        table.add_column("who", width=9)
        table.add_column("tokens", width=8)
        table.add_column("share", width=6)
        table.add_column("window", width=15)
        table.add_column("text", width=self._room)
        for row in self._rows(Inks.of(self.app.get_css_variables())):
            table.add_row(*row)
        table.move_cursor(row=table.row_count - 1, scroll=True)

    def _rows(self, inks: Inks) -> list[tuple[Text, ...]]:
        report = self._report
        out, leaving = set(report.dropped_message_ids), set(report.newly_dropped_message_ids)
        rows: list[tuple[Text, ...]] = []
        sums = dict.fromkeys(_FRAME, 0)
        for segment in report.segments:
            if segment.kind in sums:
                sums[segment.kind] += segment.tokens
        excerpts = {"system": self._system or "(the template's own)"}

        def row(number: str, who: str, tokens: int | None, state: str, text: str, ink: str = "text") -> None:
            style = getattr(inks, ink)
            # What is out takes no share of the window.
            share = (
                ""
                if tokens is None or state in ("out", "drops when sent")
                else f"{100 * tokens / report.context_window:.1f}%"
            )
            figure = "" if tokens is None else f"{tokens:,}"
            cells = (number, who, figure.rjust(8), share.rjust(6), state, one_line(text, self._room))
            rows.append(tuple(Text(cell, style) for cell in cells))

        for kind in ("template", "system"):
            if sums[kind]:
                row("", _FRAME[kind], sums[kind], "in", excerpts.get(kind, ""), "muted")
        for number, message in enumerate(self._messages, 1):
            tokens = report.message_tokens.get(message.id)
            state, ink = "in", "text"
            if message.id in leaving:
                state, ink = "drops when sent", "warning"
            elif message.id in out:
                state, ink = "out", "faint"
            elif message.pinned:
                state, ink = "in, pinned", "pinned"
            row(str(number), message.role, tokens, state, message.content, ink)
        for kind in ("draft", "reserve", "free"):
            if sums[kind]:
                row("", _FRAME[kind], sums[kind], "", "", "muted")
        return rows
