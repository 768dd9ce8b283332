"""What the screen talks to: the session and the store, opened after the first frame has been drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmmagic.core.errors import LLMMagicError, StoreError

if TYPE_CHECKING:
    from llmmagic.core.chat.store import ConversationStore
    from llmmagic.core.config import GenerationConfig
    from llmmagic.core.session import Session
    from llmmagic_tui.settings import Settings


class Backend:
    """Session, store and the settings that can change while the app runs.

    Attributes:
        settings: As they are now.
        store: ``None`` until it is open, and when it cannot be opened.
        store_error: Why it could not be opened.
    """

    def __init__(self, settings: Settings, *, worker: bool = True) -> None:
        """Remember how to open it.

        Args:
            settings: What the person has set.
            worker: Keep the model in a process of its own.
        """
        self.settings = settings
        self.store: ConversationStore | None = None
        self.store_error: StoreError | None = None
        self._worker = worker
        self._session: Session | None = None
        self._closed = False

    @property
    def session(self) -> Session:
        """The session.

        Raises:
            LLMMagicError: It is not open yet.
        """
        if self._session is None:
            raise LLMMagicError("The app is still starting.", hint="Try again in a moment.")
        return self._session

    @property
    def is_open(self) -> bool:
        """Whether `open` has ended."""
        return self._session is not None

    @property
    def is_ready(self) -> bool:
        """Whether a model is loaded."""
        return self._session is not None and self._session.info is not None

    def open(self) -> None:
        """Open store and session. Blocks: imports, and the database."""
        from llmmagic.core.chat.store import ConversationStore
        from llmmagic.core.session import Session

        try:
            self.store = ConversationStore()
        except StoreError as err:
            self.store_error = err
        self._session = Session(worker=self._worker, store=self.store, overflow=self.settings.overflow)

    def close(self) -> None:
        """Stop what runs, free the model, close the database. Blocks; a second call does nothing."""
        session, self._closed = None if self._closed else self._session, True
        if session is not None:
            session.close()
        if session is not None and self.store is not None:
            self.store.close()

    @property
    def generation(self) -> GenerationConfig:
        """How replies are sampled."""
        return self.settings.generation

    def change(self, settings: Settings) -> None:
        """Let other settings apply from now on; those of the model when one is next loaded."""
        self.settings = settings
        if self._session is not None:
            self._session.overflow = settings.overflow

    @property
    def alive(self) -> bool:
        """Whether the model can answer; its process may have died."""
        return self._session is None or self._session.alive
