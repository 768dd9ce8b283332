"""IPython in a terminal: rich."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic.magics.curve import sparkline
from llmmagic.magics.screens.plain import PlainReplyScreen
from llmmagic.magics.tokens import visible
from llmmagic.magics.views.card import Answers, Bar, Card, CardStatus, Note, RunKind, TokenRow
from llmmagic.magics.views.reply import ReplyCard

if TYPE_CHECKING:
    from rich.console import ConsoleOptions, RenderResult

_REFRESH_PER_S = 12
_STYLE: dict[CardStatus, str] = {"running": "blue", "done": "green", "stopped": "yellow", "failed": "red"}


class LiveScreen:
    """Draws in place, and prints the end state below everything that was printed meanwhile."""

    def __init__(self, console: Console, render: Any) -> None:
        """Make one.

        Args:
            console: Where to draw.
            render: Makes something that rich can draw, of a state.
        """
        self._console = console
        self._render = render
        self._live: Live | None = None

    def draw(self, state: Any) -> None:
        """Show how things are now."""
        shown = _Tail(self._render(state))
        if self._live is None:
            # Transient: what is taller than the screen cannot be redrawn in place, so the whole is printed in the end.
            self._live = Live(shown, console=self._console, refresh_per_second=_REFRESH_PER_S, transient=True)
            self._live.start(refresh=True)
        else:
            self._live.update(shown)

    def close(self, state: Any) -> None:
        """Print how things ended."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._console.print(self._render(state))


class TerminalFrontEnd:
    """A terminal, drawn with rich."""

    attended = None  # no widgets

    def __init__(self, *, colour: bool = True, console: Console | None = None) -> None:
        """Make one.

        Args:
            colour: Whether the user wants colours.
            console: Where to draw; ``None`` is standard output.
        """
        self.colour = colour
        # rich would guess that it is in a notebook from the shell alone
        self._console = console or Console(force_jupyter=False, no_color=not colour, highlight=False)

    def card_screen(self) -> LiveScreen:
        """Bars and figures."""
        return LiveScreen(self._console, render_card)

    def reply_screen(self, *, raw: bool) -> LiveScreen | PlainReplyScreen:
        """Rendered Markdown, or the raw text."""
        return PlainReplyScreen() if raw else LiveScreen(self._console, render_reply)

    def show(self, card: Card) -> None:
        """Print the card."""
        self._console.print(render_card(card))

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(Text(one_line(text)))


class _Tail:
    """The last lines of something, as many as the screen has room for."""

    def __init__(self, content: RenderableType) -> None:
        self._content = content

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._content, options.update(height=None), pad=False)
        for line in lines[-max(console.height - 2, 1) :]:
            yield from line
            yield Segment.line()


def render_card(card: Card) -> RenderableType:
    """A card for rich. Every text goes in as `Text`: rich's own markup in a file name stays text."""
    parts: list[RenderableType] = [Text.assemble(("● ", _STYLE[card.status]), (one_line(card.title), "bold"))]
    parts += [_bar(bar) for bar in card.bars]
    rows = list(card.facts)
    if card.curve is not None:
        rows.append(("Loss curve", sparkline(card.curve)))
    if rows:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for name, value in rows:
            table.add_row(Text("  " + one_line(name)), Text(one_line(value)))
        parts.append(table)
    parts += [_note(note) for note in card.notes]
    parts += [_answers(answers) for answers in card.answers]
    parts += _tokens(card.tokens)
    return Group(*parts)


def _answers(answers: Answers) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for when, text in answers.given:
        table.add_row(Text("    " + when), Text(one_line(text)))
    return Group(Text("  " + one_line(answers.prompt), style="bold"), table)


def render_reply(card: ReplyCard) -> RenderableType:
    """A reply for rich."""
    parts: list[RenderableType] = [_note(note) for note in card.notes]
    if card.text.strip():
        # hyperlinks=False: a terminal link hides where it leads
        parts.append(Markdown(strip_controls(card.text), hyperlinks=False))
    elif not card.running:
        parts.append(Text("The reply is empty.", style="dim italic"))
    if below := card.footer or card.status:
        parts.append(Text(one_line(below), style="dim"))
    return Group(*parts)


_RUN_STYLE: dict[RunKind, str] = {"trained": "bold green", "masked": "dim", "cut": "strike red", "gap": "italic dim"}


def _tokens(rows: tuple[TokenRow, ...]) -> list[RenderableType]:
    """Rows token by token; bold, dim, struck through and reversed also say it without colours."""
    if not rows:
        return []
    legend = Text.assemble(
        "  ",
        ("trained on", _RUN_STYLE["trained"]),
        "  ",
        ("masked: only read", _RUN_STYLE["masked"]),
        "  ",
        ("cut off by max_length", _RUN_STYLE["cut"]),
        "  ",
        ("special token", "reverse"),
    )
    parts: list[RenderableType] = [Text(), legend]
    for row in rows:
        text = Text()
        for run in row.runs:
            text.append(visible(run), _RUN_STYLE[run.kind] + (" reverse" if run.special else ""))
        parts += [Text("\n  " + one_line(row.title), style="dim"), Padding(text, (0, 0, 0, 4))]
    return parts


def _bar(bar: Bar) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=10, no_wrap=True)
    table.add_column(width=24)
    table.add_column(overflow="ellipsis", no_wrap=True)
    total = None if bar.done is None else 1.0
    table.add_row(
        Text("  " + one_line(bar.label)), ProgressBar(total=total, completed=bar.done or 0.0), Text(one_line(bar.text))
    )
    return table


def _note(note: Note) -> Text:
    warning = note.level == "warning"
    return Text(f"  {'Warning: ' if warning else ''}{one_line(note.text)}", style="yellow" if warning else "dim")
