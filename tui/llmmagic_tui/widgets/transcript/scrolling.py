"""Scrolling over items whose heights are mostly estimated.

What is on screen has real heights, the rest is estimated until it comes into view. Putting an estimate right never
moves what one looks at.
"""

from __future__ import annotations

from textual.geometry import Size
from textual.scroll_view import ScrollView

from llmmagic_tui.widgets.transcript.layout import Stack


class SettlingScroll(ScrollView):
    """A scroll view that measures items as they come into view."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._stack = Stack()
        self._width = 0
        self._following = True
        self._settling = False
        self._top = (0, 0)  # item and line within it that the screen begins with

    # --- what a subclass says about its items -------------------------------------------------------------------------

    def _count(self) -> int:
        """How many items there are."""
        raise NotImplementedError

    def _estimate(self, index: int) -> int:
        """About how many lines an item takes."""
        raise NotImplementedError

    def _height(self, index: int) -> int:
        """How many lines an item takes."""
        raise NotImplementedError

    def _can_measure(self) -> bool:
        """Whether `_height` can be asked yet."""
        return self._width > 0

    # --- scrolling ----------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Go to the end and stay there."""
        self._following = True
        self._settle()

    def on_resize(self) -> None:
        """Estimate anew for another width, keeping the first visible message where it is."""
        width = self.scrollable_content_region.width
        if width == self._width or not width:
            self._settle()
            return
        first = self._top[0]  # not by scroll_y: the new layout may have moved that already
        self._width = width
        self._stack = Stack(self._estimate(index) for index in range(self._count()))
        if not self._following and self._count():
            self._settling = True  # going there is no scrolling
            self._go(self._stack.top(min(first, self._count() - 1)))
            self._settling = False
        self._settle()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draw what comes into view."""
        super().watch_scroll_y(old_value, new_value)
        if not self._settling:
            self._following = new_value >= self.max_scroll_y
            self._settle(moved=int(new_value) - int(old_value))

    def _settle(self, moved: int | None = None) -> None:
        """Put real heights in place of estimates wherever the screen shows them.

        Args:
            moved: Lines that were scrolled since the last time.
        """
        if self._settling or not self._can_measure():
            return
        self._settling = True
        room = self.size.height
        try:
            if self._following:
                index, line = self._count() - 1, 0
                while index >= 0 and line < room:
                    line += self._measure(index)
                    index -= 1
            elif self._count():
                near = moved is not None and abs(moved) <= 2 * room
                self._settle_from(*(self._walk(moved or 0) if near else self._stack.at(int(self.scroll_y))), room)
            self.virtual_size = Size(self._width, self._stack.height)
            if self._following:
                self._go(self._stack.height)
            if self._count():
                self._top = self._stack.at(int(self.scroll_y))
        finally:
            self._settling = False
        self.refresh()

    def _walk(self, lines: int) -> tuple[int, int]:
        """Go some lines from the line that was on top, over real heights: nothing jumps."""
        index, within = self._top
        index = min(index, self._count() - 1)
        within += lines
        while within < 0 and index > 0:
            index -= 1
            within += self._measure(index)
        while within >= (height := self._measure(index)) and index < self._count() - 1:
            within -= height
            index += 1
        return index, max(within, 0)

    def _settle_from(self, first: int, within: int, room: int) -> None:
        height = self._measure(first)
        within = min(within, max(height - 1, 0))
        line, index = height - within, first + 1
        while index < self._count() and line < room:
            line += self._measure(index)
            index += 1
        self._go(self._stack.top(first) + within)

    def _go(self, line: int) -> None:
        self.virtual_size = Size(self._width, self._stack.height)
        self.scroll_y = self.scroll_target_y = min(max(line, 0), max(self._stack.height - self.size.height, 0))

    def _measure(self, index: int) -> int:
        height = self._height(index)
        self._stack[index] = height
        return height
