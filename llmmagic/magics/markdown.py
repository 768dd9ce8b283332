"""Markdown of a model as HTML that cannot do anything.

A notebook runs scripts that stand in a trusted ``text/markdown`` output, and what a model writes is nobody's to trust:
so the Markdown is rendered here, with raw HTML shown as text, links only to the web, and images as links (loading one
would tell its server that, and when, the reply was read).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from llmmagic.core.sanitize import strip_controls

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_inline import StateInline

_MOST_CODE = 50_000  # characters of a code block that are coloured; more would take a second
_FORMULA = {"\\(": "\\)", "\\[": "\\]", "$$": "$$"}
_WEB = re.compile(r"(?:https?://|mailto:)[^\s]", re.IGNORECASE)


def markdown_html(text: str, *, highlight: bool = False) -> str:
    """Render untrusted Markdown.

    Args:
        text: CommonMark with tables and strikethrough; may be cut off anywhere.
        highlight: Mark the words of code blocks with Pygments' classes; for who brings the styles.

    Returns:
        HTML without scripts, event handlers, images, or links to anything but the web.
    """
    rendered: str = _renderer(highlight).render(strip_controls(text))
    return rendered


def settled_length(text: str) -> int:
    """How much of a growing text is in blocks that nothing can change any more: all but the last one.

    Args:
        text: Markdown whose end has not been written yet.

    Returns:
        Characters, up to the beginning of a line.
    """
    lines = text[: text.rfind("\n") + 1]  # the beginning of a line may look like another block: "2" of "2. two"
    starts = [token.map[0] for token in _renderer(False).parse(lines) if token.level == 0 and token.map]
    end = 0
    for _ in range(starts[-1] if starts else 0):
        end = lines.index("\n", end) + 1
    return end


@functools.cache
def _renderer(highlight: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt

    options = {"html": False, "breaks": True, "highlight": _highlight if highlight else None}
    renderer = MarkdownIt("commonmark", options).enable(["table", "strikethrough"])
    renderer.validateLink = lambda url: bool(_WEB.match(url))  # type: ignore[method-assign]
    renderer.inline.ruler.before("escape", "formula", _formula)
    renderer.add_render_rule("link_open", _link_open)
    renderer.add_render_rule("image", _image)
    return renderer


def _formula(state: StateInline, silent: bool) -> bool:
    r"""Leave LaTeX as it is: ``\( \)``, ``\[ \]`` and ``$$ $$`` keep their signs, and what is between them."""
    opening = state.src[state.pos : state.pos + 2]
    if opening not in _FORMULA:
        return False
    end = state.src.find(_FORMULA[opening], state.pos + 2)
    # an escaped link, \[text\](address), is none
    if end < 0 or (opening == "\\[" and state.src.startswith("(", end + 2)):
        return False
    if not silent:
        state.push("text", "", 0).content = state.src[state.pos : end + 2]
    state.pos = end + 2
    return True


def _link_open(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    href = escape(str(tokens[index].attrGet("href") or ""))
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">'


def _image(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    source, label = str(tokens[index].attrGet("src") or ""), tokens[index].content
    href = escape(source)
    text = escape(f"image: {label}" if label else "image")
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">[{text}]</a>'


def _highlight(code: str, language: str, attributes: str) -> str:
    """Code as spans; an empty string, which leaves the code plain, where the language is not known."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    if len(code) > _MOST_CODE:
        return ""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    marked: str = highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix="llmmagic-"))
    return marked
