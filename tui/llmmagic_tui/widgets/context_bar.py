"""The context window as a bar: what each token of it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from llmmagic.core.chat.words import LEGEND
from llmmagic_tui.themes import Inks

if TYPE_CHECKING:
    from llmmagic.core.events import WindowReport

_GLYPHS = {"reserve": "▒", "free": "░"}
# Which figures stay when it is narrow.
_IMPORTANCE = ("draft", "turn", "pinned", "free", "reserve", "system", "template")


def share_cells(tokens: Sequence[int], cells: int) -> list[int]:
    """Divide a bar.

    Args:
        tokens: Size of each part.
        cells: Width of the bar.

    Returns:
        Cells of each part, adding up to ``cells`` when there are any tokens. A part that has tokens gets a cell as long
        as there are enough; the rest goes by size (largest remainder).
    """
    total = sum(tokens)
    if total <= 0 or cells <= 0:
        return [0] * len(tokens)
    exact = [count * cells / total for count in tokens]
    shares = [int(share) for share in exact]
    rest = sorted(range(len(tokens)), key=lambda index: exact[index] - shares[index], reverse=True)
    for index in rest[: cells - sum(shares)]:
        shares[index] += 1
    if sum(count > 0 for count in tokens) <= cells:
        for index, count in enumerate(tokens):
            if count > 0 and not shares[index]:
                shares[index] = 1
                shares[shares.index(max(shares))] -= 1
    return shares


class ContextBar(Widget):
    """Two lines: the bar, and its figures."""

    ALLOW_SELECT = False
    DEFAULT_CSS = "ContextBar { height: 2; padding: 0 1; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._report: WindowReport | None = None
        self._message = ""
        self._level = "info"
        self._inks: Inks | None = None

    def on_mount(self) -> None:
        """Learn the colours, now and whenever the theme changes."""
        self.app.theme_changed_signal.subscribe(self, lambda _: self._recolour())
        self._recolour()

    def _recolour(self) -> None:
        self._inks = Inks.of(self.app.get_css_variables())
        self.refresh()

    @property
    def report(self) -> WindowReport | None:
        """What is shown."""
        return self._report

    @property
    def message(self) -> str:
        """What is said instead of the figures, if anything."""
        return self._message

    def show(self, report: WindowReport | None, message: str = "", level: str = "info") -> None:
        """Show a window.

        Args:
            report: The figures; ``None`` while there is no model to count for.
            message: What the person has to know now: it comes before the figures.
            level: ``info``, ``warning`` or ``error``.
        """
        self._report, self._message, self._level = report, message, level
        self.tooltip = self._describe()
        self.refresh()

    def _describe(self) -> str | None:
        if self._report is None:
            return None
        # A tooltip is markup; labels are the core's own words, numbers are numbers.
        return "\n".join(f"{each.label or each.kind}: {each.tokens:,}" for each in self._report.segments if each.tokens)

    def render_line(self, y: int) -> Strip:
        """The bar, then the figures."""
        inks = self._inks or Inks.of(self.app.get_css_variables())
        width = self.size.width
        line = self._bar(inks, width) if y == 0 else self._figures(inks, width)
        return Strip(line).crop_extend(0, width, self.rich_style).apply_style(self.rich_style)

    def _bar(self, inks: Inks, width: int) -> list[Segment]:
        if self._report is None:
            return [Segment("░" * width, inks.free)]
        segments = self._report.segments
        cells = share_cells([segment.tokens for segment in segments], width)
        line: list[Segment] = []
        turn = 0
        for segment, count in zip(segments, cells, strict=True):
            style: Style = getattr(inks, segment.kind)
            if segment.kind == "turn":
                turn += 1
                style = inks.turn if turn % 2 else inks.turn_other
            line.append(Segment(_GLYPHS.get(segment.kind, "█") * count, style))
        return line

    def _figures(self, inks: Inks, width: int) -> list[Segment]:
        style = {"warning": inks.warning, "error": inks.error}.get(self._level, inks.muted)
        if self._report is None:
            return [Segment(self._message, style)]
        report = self._report
        percent = 100 * report.prompt_tokens / report.context_window
        line = [Segment(f"{self._message}  ", style + Style(bold=True))] if self._message else []
        about = "" if report.exact else "about "
        figures = f"{about}{report.prompt_tokens:,} of {report.context_window:,} tokens ({percent:.0f}%) "
        if not line or line[0].cell_length + len(figures) <= width:  # half a figure is a wrong one
            line.append(Segment(figures, inks.text))
        sums = dict.fromkeys(LEGEND, 0)
        for segment in report.segments:
            sums[segment.kind] += segment.tokens
        room = width - sum(segment.cell_length for segment in line)
        texts = {kind: f" {words} {sums[kind]:,}" for kind, words in LEGEND.items() if sums[kind]}
        shown: set[str] = set()
        for kind in _IMPORTANCE:
            if kind in texts and len(texts[kind]) + 2 <= room:
                room -= len(texts[kind]) + 2
                shown.add(kind)
        for kind, text in texts.items():
            if kind in shown:
                line += [Segment(" "), Segment(_GLYPHS.get(kind, "■"), getattr(inks, kind)), Segment(text, inks.muted)]
        return line
