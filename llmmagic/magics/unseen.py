"""Cells that nobody typed: ``ipython FILE.ipynb`` runs them without showing what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class UnseenCells:
    """Knows whether the cell that runs can be seen by who looks at its output.

    Attributes:
        running: Whether the cell that runs is one that is not shown.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.running = False
        self._events = shell.events
        # IPython announces every cell with the first, and only those that are typed with the second as well.
        self._events.register("pre_execute", self._begins)
        self._events.register("pre_run_cell", self._is_seen)

    def remove(self) -> None:
        """Stop listening."""
        self._events.unregister("pre_execute", self._begins)
        self._events.unregister("pre_run_cell", self._is_seen)

    def _begins(self) -> None:
        self.running = True

    def _is_seen(self, info: object) -> None:
        self.running = False
