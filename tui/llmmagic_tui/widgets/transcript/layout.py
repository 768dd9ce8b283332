"""Where each of many items stands, when most of their heights are only estimated."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate


class Stack:
    """Items of some height each, one below the other.

    Changing a height is cheap; positions are added up when they are next asked for.
    """

    def __init__(self, heights: Iterable[int] = ()) -> None:
        self._heights = list(heights)
        self._ends: list[int] | None = None

    def __len__(self) -> int:
        return len(self._heights)

    def __getitem__(self, index: int) -> int:
        """Height of an item, in lines."""
        return self._heights[index]

    def __setitem__(self, index: int, height: int) -> None:
        if self._heights[index] != height:
            self._heights[index] = height
            self._ends = None

    def append(self, height: int) -> None:
        """Add an item at the end."""
        self._heights.append(height)
        self._ends = None

    @property
    def height(self) -> int:
        """Lines of all items."""
        ends = self._sums()
        return ends[-1] if ends else 0

    def top(self, index: int) -> int:
        """First line of an item."""
        return self._sums()[index - 1] if index else 0

    def at(self, line: int) -> tuple[int, int]:
        """Which item a line belongs to.

        Args:
            line: Counted from the top of the first item; what lies outside counts as the nearest line.

        Returns:
            Index of the item, and the line within it.

        Raises:
            IndexError: There are no items.
        """
        if not self._heights:
            raise IndexError("an empty stack has no lines")
        line = min(max(line, 0), max(self.height - 1, 0))
        index = min(bisect_right(self._sums(), line), len(self._heights) - 1)
        return index, line - self.top(index)

    def _sums(self) -> list[int]:
        if self._ends is None:
            self._ends = list(accumulate(self._heights))
        return self._ends
