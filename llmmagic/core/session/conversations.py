"""The conversations of a session by name, each with a context window of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmmagic.core.errors import ConversationNotFoundError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmmagic.core.chat.records import Summary
    from llmmagic.core.chat.store import ConversationStore
    from llmmagic.core.chat.tree import Conversation
    from llmmagic.core.chat.window import ContextWindow, WindowPlan
    from llmmagic.core.config import Overflow
    from llmmagic.core.engines.opened import OpenedEngine

DEFAULT_CONVERSATION = "default"


class Conversations:
    """Finds conversations and plans what the model sees of them.

    Attributes:
        by_name: Those that were used in this session.
        overflow: What happens when one no longer fits.
    """

    def __init__(self, store: ConversationStore | None, overflow: Overflow) -> None:
        """Begin with none.

        Args:
            store: Where they are written down, if anywhere.
            overflow: ``rolling`` or ``stop``.
        """
        self.by_name: dict[str, Conversation] = {}
        self.overflow: Overflow = overflow
        self._store = store
        self._windows: dict[str, ContextWindow] = {}

    def find(self, name: str) -> Conversation:
        """A conversation of this session, or the stored one of that id.

        Raises:
            ConversationNotFoundError: There is none.
        """
        if name in self.by_name:
            return self.by_name[name]
        if known := self.name_of(name):  # by its id: one conversation is one object, whatever it is called
            return self.by_name[known]
        if self._store is not None:
            found = self._store.load(name)
            self.by_name[name] = found
            return found
        known = ", ".join(sorted(self.by_name)) or "none yet"
        raise ConversationNotFoundError(
            f"No conversation {name!r}; there are: {known}.", hint=did_you_mean(name, self.by_name)
        )

    def name_of(self, conversation_id: str) -> str | None:
        """What a conversation is reached by, if it was used in this session."""
        return next((name for name, talk in self.by_name.items() if talk.id == conversation_id), None)

    @contextmanager
    def kept(self) -> Iterator[ConversationStore | None]:
        """All that are written down: here, or by other programs of this user where nothing is written down here."""
        if self._store is not None:
            yield self._store
            return
        from llmmagic.core.chat.store import FILE_NAME, ConversationStore
        from llmmagic.core.config import data_dir

        if not (data_dir() / FILE_NAME).is_file():
            yield None
            return
        with ConversationStore() as store:
            yield store

    def past(self, limit: int) -> Sequence[Summary]:
        """Those that are stored and have messages, last changed first; none without a store."""
        return [] if self._store is None else self._store.list(limit=limit)

    def find_or_make(self, name: str) -> tuple[Conversation, bool]:
        """A conversation for what is said next.

        Args:
            name: Its name.

        Returns:
            The conversation, and whether it is new. A new one is not yet reachable by its name: see `put`.
        """
        try:
            return self.find(name), False
        except ConversationNotFoundError:
            return self.make(name), True

    def make(self, name: str | None = None, *, system: str | None = None) -> Conversation:
        """An empty conversation that nobody can reach yet."""
        from llmmagic.core.chat.tree import Conversation

        title = "" if name is None or name == DEFAULT_CONVERSATION else name
        return Conversation(title=title, system=system, journal=self._store)

    def put(self, name: str, conversation: Conversation) -> None:
        """Let a conversation be reached by a name."""
        self.by_name[name] = conversation

    def start(self, name: str | None, *, system: str | None) -> Conversation:
        """Make a conversation and let it be reached, by its id if it has no name."""
        conversation = self.make(name, system=system)
        self.put(name or conversation.id, conversation)
        return conversation

    def window(self, conversation: Conversation, opened: OpenedEngine) -> ContextWindow:
        """The context window of a conversation; it remembers what it has laid out."""
        from llmmagic.core.chat.window import ContextWindow

        window = self._windows.get(conversation.id)
        if window is None or window.template is not opened.template:
            window = ContextWindow(opened.template, opened.info.context_window, overflow=self.overflow)
            self._windows[conversation.id] = window
        return window

    def plan(self, name: str, opened: OpenedEngine, *, draft: str | None, reserve_tokens: int) -> WindowPlan:
        """Forecast what the model would see; changes nothing.

        Raises:
            ContextOverflowError: It does not fit.
            ChatTemplateError: The template refuses the messages.
        """
        conversation, _ = self.find_or_make(name)
        # An empty draft makes it a forecast even where the path ends with a question that nobody has answered.
        return self.window(conversation, opened).plan(conversation, draft=draft or "", reserve_tokens=reserve_tokens)

    def forget_windows(self) -> None:
        """Another model counts differently."""
        self._windows.clear()
