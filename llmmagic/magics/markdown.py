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

_WEB = re.compile(r"(?:https?://|mailto:)[^\s]", re.IGNORECASE)


def markdown_html(text: str) -> str:
    """Render untrusted Markdown.

    Args:
        text: CommonMark with tables and strikethrough; may be cut off anywhere.

    Returns:
        HTML without scripts, event handlers, images, or links to anything but the web.
    """
    rendered: str = _renderer().render(strip_controls(text))
    return rendered


@functools.cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    renderer.validateLink = lambda url: bool(_WEB.match(url))  # type: ignore[method-assign]
    renderer.add_render_rule("link_open", _link_open)
    renderer.add_render_rule("image", _image)
    return renderer


def _link_open(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    href = escape(str(tokens[index].attrGet("href") or ""))
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">'


def _image(self: Any, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
    source, label = str(tokens[index].attrGet("src") or ""), tokens[index].content
    href = escape(source)
    text = escape(f"image: {label}" if label else "image")
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">[{text}]</a>'
