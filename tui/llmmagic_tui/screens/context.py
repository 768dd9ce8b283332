"""The context window in detail: one row a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from llmmagic.core.chat.words import view_window
from llmmagic.core.errors import LLMMagicError
from llmmagic_tui.widgets.context_bar import ContextBar
from llmmagic_tui.widgets.window_table import Row, TableHead, WindowTable

if TYPE_CHECKING:
    from llmmagic.core.chat.messages import Message
    from llmmagic.core.events import WindowReport

Count: TypeAlias = "Callable[[Sequence[str]], Mapping[str, int]]"
_AT_ONCE = 200  # messages: some hundredths of a second


class ContextScreen(ModalScreen[None]):
    """Every message with its exact tokens: in or out, and its share of the window."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f2", "app.pop_screen", "Close", id="context_close", priority=True)
    ]

    def __init__(self, report: WindowReport, messages: Sequence[Message], system: str | None, count: Count) -> None:
        """Set what is shown.

        Args:
            report: The figures.
            messages: The active path.
            system: The system prompt of the conversation, if it has one of its own.
            count: Gives the tokens of messages that are not in the window, by id. It is called in another thread.
        """
        super().__init__()
        self._report, self._messages, self._system = report, messages, system
        self._count = count

    def compose(self) -> ComposeResult:
        """Sums, bar, table."""
        rows, first = self._rows()
        with Vertical(classes="dialog -wide"):
            yield Label("Context window", classes="dialog-title", markup=False)
            yield Static(Text(self._summary()), classes="dialog-note", id="sums")
            yield ContextBar()
            yield TableHead()
            yield WindowTable(self._report.context_window, rows, first=first, exact=self._report.exact)

    def _summary(self) -> str:
        report = self._report
        return (
            f"{'' if report.exact else 'about '}{report.prompt_tokens:,} tokens of prompt "
            f"+ {report.reserve_tokens:,} kept for the reply "
            f"+ {report.free_tokens:,} free = {report.context_window:,}"
        )

    def on_mount(self) -> None:
        """Show the sums, and count what is out."""
        self.query_one(ContextBar).show(self._report)
        self.query_one(WindowTable).focus()
        if self._out:
            self.run_worker(self._count_out(), group="count")

    @property
    def _out(self) -> list[str]:
        """Messages that are not in the window the report is about, newest first."""
        dropped = set(self._report.dropped_message_ids)
        return [message.id for message in reversed(self._messages) if message.id in dropped]

    async def _count_out(self) -> None:
        out, table, total = self._out, self.query_one(WindowTable), 0
        for begin in range(0, len(out), _AT_ONCE):
            try:
                tokens = await asyncio.to_thread(self._count, out[begin : begin + _AT_ONCE])
            except LLMMagicError:  # the model is gone, or its template refuses them: their figures stay open
                return
            table.count(tokens)
            total += sum(tokens.values())
        messages = "1 message" if len(out) == 1 else f"{len(out):,} messages"
        self.query_one("#sums", Static).update(Text(f"{self._summary()}; out: {messages}, {total:,} tokens"))

    def _rows(self) -> tuple[list[Row], int]:
        """The rows, and the one where the window begins."""
        report = self._report
        view = view_window(report)
        sums = view.sums
        frame = [Row("template", sums["template"], "muted", state="in")] if "template" in sums else []
        if "system" in sums:
            words = self._system or "(the template's own)"
            frame.append(Row("system", sums["system"], "muted", state="in", text=words))
        rows: list[Row] = []
        first = 0
        for number, message in enumerate(self._messages, 1):
            tokens = report.message_tokens.get(message.id)
            state, ink = "in", "text"
            if message.id in view.leaving:
                state, ink = "drops when sent", "warning"
            elif message.id in view.out:
                state, ink = "out", "faint"
            elif message.pinned:
                state, ink = "in, pinned", "pinned"
            rows.append(Row(message.role, tokens, ink, number, state, message.content, message.id))
            if state in ("out", "drops when sent"):
                first = len(rows)
        # What the model sees first stands where the window begins, and not some thousand rows above it.
        if first:
            frame.insert(0, Row("", None, "faint", text=view.cut or "with this message sent, the window begins here"))
        rows[first:first] = frame
        kinds = (("draft", "draft"), ("reserve", "reserve"), ("free", "free"))
        rows += [Row(who, sums[kind], "muted") for kind, who in kinds if kind in sums]
        return rows, first
