"""What the panels of one session share: they hear of each other's changes, and of what cells do."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from llmmagic.magics.panel.drawing import Drawn

if TYPE_CHECKING:
    from llmmagic.core.session import Session
    from llmmagic.magics.panel.panel import ChatPanel
    from llmmagic.magics.panel.replies import Reply


class PanelHub:
    """The panels of a session.

    Attributes:
        session: Theirs.
        drawn: Messages that were rendered already.
        lock: Held while anything is sent, so that what arrives is in order.
        reply: The reply that a panel has asked for and that is being written.
        speed: Figures of the last reply.
        closed: Whether the extension was unloaded.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.drawn = Drawn()
        self.lock = threading.RLock()
        self.reply: Reply | None = None
        self.speed = ""
        self.closed = False
        self._panels: weakref.WeakSet[ChatPanel] = weakref.WeakSet()
        # Counting a long window takes a moment: not in the thread that runs cells, and one after the other.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llmmagic-panel")
        self._unwatch = session.watch(self._session_changed)

    def add(self, panel: ChatPanel) -> None:
        """Let a panel hear of changes."""
        self._panels.add(panel)

    @property
    def panels(self) -> list[ChatPanel]:
        """All panels that still exist."""
        return list(self._panels)

    def showing(self, talk_id: str) -> list[ChatPanel]:
        """The panels on which a conversation is."""
        return [panel for panel in self.panels if panel.talk.id == talk_id]

    def soon(self, work: Callable[[], None]) -> None:
        """Do something in the background; nothing more after the end."""
        try:
            self._pool.submit(work)
        except RuntimeError:  # closed meanwhile
            return

    def changed(self, talk_id: str) -> None:
        """A conversation is another than before: every panel that shows it is told."""
        for panel in self.showing(talk_id):
            panel.refresh()

    def _session_changed(self) -> None:
        self.soon(self._refresh_all)

    def _refresh_all(self) -> None:
        for panel in self.panels:
            panel.refresh()

    def close(self) -> None:
        """Tell the panels that nobody answers any more."""
        self._unwatch()
        self.closed = True
        self._pool.shutdown(wait=True)
        for panel in self.panels:
            panel.send_status()
