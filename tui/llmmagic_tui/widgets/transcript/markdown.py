"""Markdown as lines of a terminal, for text that nobody has checked.

The text is a model's: whatever it contains is shown. HTML stays text, a link is underlined and does nothing until it is
clicked and confirmed, an image is its description. `MarkdownDocument` is made for streams: only the block that is still
being written is parsed and drawn again.
"""

from __future__ import annotations

from functools import lru_cache
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console, JustifyMethod
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.tree import SyntaxTreeNode

    from llmmagic_tui.themes import Inks

Line = list[Segment]
_MIN_WIDTH = 8
_MAX_COLUMNS = 24  # a table wider than this is shown as its source
_MAX_HIGHLIGHT = 60_000  # characters of code beyond which colours would cost more than they help
_MAX_NESTING = 30  # the parser drops what is nested deeper; it is shown as its source
_TAB = 4


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    # Imported here: the first frame of the app has no Markdown in it yet.
    from markdown_it import MarkdownIt

    # No references: `[name]: address` would vanish, and a block could change another that was drawn long before.
    options = {"html": False, "maxNesting": _MAX_NESTING}
    return MarkdownIt("commonmark", options).enable(["table", "strikethrough"]).disable("reference")


@lru_cache(maxsize=1)
def _console() -> Console:
    return Console(file=StringIO(), width=80, color_system="truecolor", force_terminal=True, legacy_windows=False)


def wrap(text: Text, width: int) -> list[Line]:
    """Break a text into lines.

    Args:
        text: Styled text; a newline in it ends a line.
        width: Cells of a line.

    Returns:
        At least one line; no line is wider than ``width``.
    """
    console = _console()
    text.stylize_before(text.style)  # Rich forgets the style of a text that has no spans
    lines = text.wrap(console, max(width, 1), tab_size=_TAB, overflow="fold")
    return [[segment for segment in line.render(console, end="") if segment.text] for line in lines] or [[]]


def plain(text: str, width: int, style: Style) -> list[Line]:
    """Text that is no Markdown, as it was typed."""
    return wrap(Text(text, style), width)


class MarkdownDocument:
    """A Markdown text that may still be growing."""

    def __init__(self, source: str = "") -> None:
        self._done: list[str] = []
        self._tail = ""
        self._lines: list[list[Line]] = []  # of the blocks that are done, for `_drawn_for`
        self._drawn_for: tuple[int, Inks] | None = None
        if source:
            self.append(source)

    @property
    def source(self) -> str:
        """The whole text."""
        return "".join(self._done) + self._tail

    def append(self, text: str) -> None:
        """Add text at the end; blocks that it cannot change any more are set aside."""
        self._tail += text
        starts = [token.map[0] for token in _parser().parse(self._tail) if token.level == 0 and token.map]
        if starts and starts[-1] > 0:
            # Not splitlines(): it ends a line at U+2028 too, the parser does not.
            lines = self._tail.split("\n")
            self._done.append("\n".join(lines[: starts[-1]]) + "\n")
            self._tail = "\n".join(lines[starts[-1] :])

    def lines(self, width: int, inks: Inks) -> list[Line]:
        """Draw it.

        Args:
            width: Cells of a line.
            inks: Colours.

        Returns:
            The lines, without a trailing blank one.
        """
        if self._drawn_for != (width, inks):
            self._drawn_for, self._lines = (width, inks), []
        for source in self._done[len(self._lines) :]:
            self._lines.append(_draw(source, width, inks))
        blocks = [*self._lines, _draw(self._tail, width, inks)]
        return _join(blocks)


def _join(blocks: list[list[Line]]) -> list[Line]:
    lines: list[Line] = []
    for block in blocks:
        if block and lines:
            lines.append([])
        lines += block
    return lines


def _draw(source: str, width: int, inks: Inks) -> list[Line]:
    from markdown_it.tree import SyntaxTreeNode

    root = SyntaxTreeNode(_parser().parse(source))
    return _Painter(inks, source).blocks(root.children, width)


class _Painter:
    """Draws one parsed piece of Markdown."""

    def __init__(self, inks: Inks, source: str) -> None:
        self._inks = inks
        self._source = source

    def blocks(self, nodes: list[SyntaxTreeNode], width: int, *, tight: bool = False) -> list[Line]:
        drawn = [self._block(node, max(width, _MIN_WIDTH)) for node in nodes]
        return [line for block in drawn for line in block] if tight else _join(drawn)

    def _block(self, node: SyntaxTreeNode, width: int) -> list[Line]:
        inks = self._inks
        match node.type:
            case "paragraph" | "inline":
                return wrap(self._inline(node, inks.text), width)
            case "heading":
                return wrap(self._inline(node, inks.heading + Style(underline=node.tag == "h1")), width)
            case "fence" | "code_block":
                return self._code(node.content, node.info.split(maxsplit=1)[0] if node.info.strip() else "", width)
            case "blockquote" if node.children:
                bar = Segment("▎ ", inks.muted)
                return [[bar, *line] for line in self.blocks(node.children, width - 2)]
            case "bullet_list" | "ordered_list":
                return self._list(node, width)
            case "table":
                return self._table(node, width)
            case "hr":
                return [[Segment("─" * min(width, 40), inks.rule)]]
            case _:  # nested too deep, or something that a later parser may bring
                return self._as_source(node, width)

    def _as_source(self, node: SyntaxTreeNode, width: int) -> list[Line]:
        start, end = node.map or (0, 0)
        return plain("\n".join(self._source.split("\n")[start:end]).strip(), width, self._inks.text)

    def _list(self, node: SyntaxTreeNode, width: int) -> list[Line]:
        ordered = node.type == "ordered_list"
        number = int(node.attrs.get("start", 1)) if ordered else 0
        indent = len(str(number + len(node.children))) + 2 if ordered else 2
        items: list[list[Line]] = []
        tight = True
        for offset, item in enumerate(node.children):
            hidden = [child.hidden for child in item.children if child.type == "paragraph"]
            tight = tight and all(hidden)
            mark = f"{number + offset}.".rjust(indent - 1) + " " if ordered else "• "
            deep = not item.children and item.level >= _MAX_NESTING - 2
            lines = (
                self._as_source(item, width - indent)
                if deep
                else self.blocks(item.children, width - indent, tight=all(hidden))
            )
            lines = lines or [[]]
            items.append(
                [
                    [Segment(mark if first else " " * indent, self._inks.muted), *line]
                    for first, line in zip([True] + [False] * len(lines), lines, strict=False)
                ]
            )
        return [line for item in items for line in item] if tight else _join(items)

    def _code(self, code: str, language: str, width: int) -> list[Line]:
        inks = self._inks
        code = code.rstrip("\n")
        copy = Style.from_meta({"copy": code})
        label = (language or "text")[: max(width - 8, 0)]
        gap = " " * max(width - len(label) - 6, 1)
        head = [Segment(f" {label}{gap}", inks.code_head), Segment("copy ", inks.code_head + copy)]
        lines: list[Line] = [head]
        for line in wrap(highlight(code, language, inks), width - 2):
            pad = width - 1 - Segment.get_line_length(line)
            body = Segment.apply_style(line, inks.code_block)
            lines.append([Segment(" ", inks.code_block), *body, Segment(" " * max(pad, 0), inks.code_block)])
        return lines

    def _table(self, node: SyntaxTreeNode, width: int) -> list[Line]:
        from rich import box
        from rich.table import Table

        rows = [row.children for part in node.children for row in part.children]
        if not rows or len(rows[0]) > _MAX_COLUMNS:
            return self._as_source(node, width)
        table = Table(box=box.SIMPLE_HEAD, border_style=self._inks.rule, pad_edge=False, show_edge=False)
        for cell in rows[0]:
            table.add_column(self._inline(cell, self._inks.bold), justify=_justify(cell), overflow="fold")
        for row in rows[1:]:
            table.add_row(*(self._inline(cell, self._inks.text) for cell in row))
        console = _console()
        return console.render_lines(table, console.options.update(width=width), pad=False)

    def _inline(self, node: SyntaxTreeNode, style: Style) -> Text:
        text = Text(style=style)
        self._spans(node, Style.null(), text)
        return text

    def _spans(self, node: SyntaxTreeNode, style: Style, text: Text) -> None:
        inks = self._inks
        for child in node.children:
            match child.type:
                case "inline":
                    self._spans(child, style, text)
                case "softbreak" | "hardbreak":
                    text.append("\n")  # models break lines on purpose
                case "em":
                    self._spans(child, style + Style(italic=True), text)
                case "strong":
                    self._spans(child, style + Style(bold=True), text)
                case "s":
                    self._spans(child, style + Style(strike=True), text)
                case "code_inline":
                    text.append(child.content, style + inks.code)
                case "link":
                    link = Style.from_meta({"link": str(child.attrs.get("href", ""))})
                    self._spans(child, style + inks.link + link, text)
                case "image":
                    link = Style.from_meta({"link": str(child.attrs.get("src", ""))})
                    text.append(f"[image: {child.content}]", style + inks.link + link)
                case _:
                    text.append(child.content, style)


def _justify(cell: SyntaxTreeNode) -> JustifyMethod:
    style = str(cell.attrs.get("style", ""))
    return "right" if "right" in style else "center" if "center" in style else "left"


def highlight(code: str, language: str, inks: Inks) -> Text:
    """Colour code.

    Args:
        code: The code.
        language: What stands behind the fence; unknown or empty is no colours.
        inks: Colours.
    """
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    if not language or len(code) > _MAX_HIGHLIGHT:
        return Text(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return Text(code)
    text = Text()
    for token, value in lexer.get_tokens(code):
        name = str(token)
        style = next((style for prefix, style in inks.syntax if name.startswith(prefix)), None)
        text.append(value, style)
    return text
