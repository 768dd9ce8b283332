"""Markdown of a reply that is still being written: what is finished is rendered once, the rest as it grows."""

from __future__ import annotations

from dataclasses import dataclass

from llmmagic.magics.markdown import markdown_html, settled_length


@dataclass(frozen=True, slots=True)
class Growth:
    """What has changed; the fields are those of `llmmagic.magics.panel.updates.Stream`."""

    settled: str
    cut: int
    add: str


class GrowingMarkdown:
    r"""The HTML of a growing text, as the difference from what was there before.

    Example:
        >>> reply = GrowingMarkdown()
        >>> reply.append("Two words")
        Growth(settled='', cut=0, add='<p>Two words</p>\n')
        >>> reply.append(" more")
        Growth(settled='', cut=12, add=' more</p>\n')
    """

    def __init__(self) -> None:
        self._open = ""  # the last block, which may still become another one
        self._tail = ""  # its HTML

    @property
    def tail(self) -> str:
        """HTML of the block that is not finished."""
        return self._tail

    def append(self, text: str) -> Growth:
        """Let it grow.

        Args:
            text: New text only.

        Returns:
            What to change in the page.
        """
        self._open += text
        length = settled_length(self._open)
        settled = markdown_html(self._open[:length], highlight=True) if length else ""
        self._open = self._open[length:]
        tail = markdown_html(self._open)
        before = "" if length else self._tail
        same = next((i for i, (old, new) in enumerate(zip(before, tail, strict=False)) if old != new), None)
        same = min(len(before), len(tail)) if same is None else same
        self._tail = tail
        return Growth(settled, len(tail[:same].encode("utf-16-le")) // 2, tail[same:])
