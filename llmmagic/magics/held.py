"""What a shell holds between its cells: the session, the store behind it, and the chat panels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmmagic.core.chat.store import ConversationStore
    from llmmagic.core.session import Session
    from llmmagic.magics.panel.hub import PanelHub


class Held:
    """Session, store and panels of one shell, each made on first use."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Hold nothing yet.

        Args:
            say: Shows a line: that conversations cannot be stored, if they cannot.
        """
        self._say = say
        self._session: Session | None = None
        self._store: ConversationStore | None = None
        self._hub: PanelHub | None = None

    @property
    def session(self) -> Session:
        """The session. Its conversations are stored where ``llmchat`` finds them."""
        if self._session is None:
            from llmmagic.core.session import Session

            self._session = Session(store=self._open_store())
        return self._session

    @property
    def hub(self) -> PanelHub:
        """What the panels share."""
        if self._hub is None:
            from llmmagic.magics.panel.hub import PanelHub

            self._hub = PanelHub(self.session)
        return self._hub

    def close(self) -> None:
        """Free all of it."""
        if self._session is not None:
            self._session.close()
        if self._hub is not None:
            self._hub.close()
        if self._store is not None:
            self._store.close()
        self._session = self._store = self._hub = None

    def _open_store(self) -> ConversationStore | None:
        from llmmagic.core.chat.store import ConversationStore
        from llmmagic.core.errors import StoreError

        try:
            self._store = ConversationStore()
        except StoreError as err:
            self._say(f"Conversations are kept in this session only: {err}")
        return self._store
