"""The session: what notebook magics, the terminal app and scripts all stand on."""

from __future__ import annotations

from llmmagic.core.errors import LLMMagicError
from llmmagic.core.events import SessionStatus
from llmmagic.core.session.chatting import ChatOperations
from llmmagic.core.session.models import ModelOperations
from llmmagic.core.session.saving import SavingOperations
from llmmagic.core.session.training import TrainingOperations

_CLOSE_S = 30.0


class Session(ModelOperations, TrainingOperations, ChatOperations, SavingOperations):
    """A model, its adapters and the conversations with it.

    One operation runs at a time. Each long one is an `Operation`: an iterator of events, with ``.wait()`` for the last.

    Example:
        >>> from llmmagic import Session
        >>> session = Session()
        >>> session.load("tiny-random").wait().info.layers
        2
        >>> reply = session.ask("Hello", max_new_tokens=8, seed=1)
        >>> [message.role for message in session.conversation().path()]
        ['user', 'assistant']
        >>> session.close()
    """

    def status(self) -> SessionStatus:
        """A look at the session; costs next to nothing."""
        from llmmagic.core.models.entries import cache_size_bytes
        from llmmagic.core.models.memory import device_memory_bytes, process_memory_bytes

        info = self.info
        talks = []
        for name, talk in self._conversations.by_name.items():
            tokens = 0
            if self._opened is not None:
                try:
                    tokens = self.window(name).prompt_tokens
                except LLMMagicError:  # this model's template or window cannot hold it: still a conversation
                    tokens = 0
            talks.append((name, len(talk.path()), tokens))
        return SessionStatus(
            model=info,
            busy=self._busy,
            conversations=tuple(talks),
            exact=self._opened is None or self._opened.template.exact,
            device_memory_bytes=0
            if info is None or info.server is not None or self._worker
            else device_memory_bytes(info.device),
            process_memory_bytes=process_memory_bytes(),
            cache_bytes=cache_size_bytes(),
        )

    def cancel(self, *, force: bool = False) -> None:
        """Ask whatever is running to end at its next safe point. Safe to call from any thread."""
        token = self._token
        if token is not None:
            token.request(force=force)

    def close(self) -> None:
        """Stop what is running and free everything. The session can be used again after a `load`."""
        self.cancel(force=True)
        self._free.wait(timeout=_CLOSE_S)
        self._set_engine(None, None)
