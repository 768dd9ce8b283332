"""What all parts of a session share: the engine, and the rule that one operation runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from llmmagic.core.config import LoadConfig, Overflow
from llmmagic.core.errors import ModelNotLoadedError, SessionBusyError
from llmmagic.core.events import ModelInfo
from llmmagic.core.operation import CancelledOperation, CancelToken, Operation
from llmmagic.core.session.conversations import Conversations
from llmmagic.core.session.idle import ReadAhead

if TYPE_CHECKING:
    from llmmagic.core.chat.store import ConversationStore
    from llmmagic.core.engines.opened import OpenedEngine
    from llmmagic.core.models.load import LoadedModel

E = TypeVar("E")
Emit = Callable[[E], None]


class SessionBase:
    """State of a session. What can be done with it is in the classes that inherit from this one."""

    def __init__(
        self,
        *,
        worker: bool = False,
        chat_only: bool = False,
        store: ConversationStore | None = None,
        overflow: Overflow = "rolling",
    ) -> None:
        """Make an empty session; nothing heavy is imported yet.

        Args:
            worker: Keep the model in a child process. It can then chat, but not train.
            chat_only: Nothing is going to be trained: where the choice of the engine is left to us, the fastest one is
                taken. A worker always does so.
            store: Where conversations are written down; without one they live as long as the session.
            overflow: What happens when a conversation no longer fits: ``rolling`` drops its oldest turns, ``stop``
                refuses.
        """
        self._worker = worker
        self._chat_only = chat_only
        self._opened: OpenedEngine | None = None
        self._second: OpenedEngine | None = None  # the same weights in another engine
        self._config: LoadConfig | None = None
        self._conversations = Conversations(store, overflow)
        self._lock = threading.Lock()
        self._busy: str | None = None
        self._token: CancelToken | None = None
        self._free = threading.Event()
        self._free.set()
        self._ahead = ReadAhead()
        self._watchers: tuple[Callable[[], None], ...] = ()

    @property
    def info(self) -> ModelInfo | None:
        """What is loaded, if anything."""
        return None if self._opened is None else self._opened.info

    @property
    def alive(self) -> bool:
        """Whether what is loaded can answer: a model in a worker process may have died. True with nothing loaded."""
        return self._opened is None or bool(getattr(self._opened.engine, "alive", True))

    @property
    def overflow(self) -> Overflow:
        """What happens when a conversation no longer fits: ``rolling`` or ``stop``."""
        return self._conversations.overflow

    @overflow.setter
    def overflow(self, policy: Overflow) -> None:
        self._conversations.overflow = policy
        self._conversations.forget_windows()

    @property
    def busy(self) -> str | None:
        """Name of the running operation, if any."""
        return self._busy

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Be told whenever an operation has begun or ended: what is loaded or said may be another then.

        Args:
            callback: Called without arguments, in whatever thread it happens; must be quick and must not raise.

        Returns:
            Ends it.
        """
        with self._lock:
            self._watchers += (callback,)

        def end() -> None:
            with self._lock:
                self._watchers = tuple(each for each in self._watchers if each is not callback)

        return end

    def _tell(self) -> None:
        for callback in self._watchers:
            callback()

    def finish_idle(self) -> None:
        """Wait until what is read ahead after a reply is read: the next reply then starts as soon as it can."""
        self._ahead.finish()

    def _start(
        self, name: str, work: Callable[[Emit[E], CancelToken], E], *, stopped: Callable[[], E] | None = None
    ) -> Operation[E]:
        """Run work in a thread, if nothing else runs.

        Args:
            name: What messages call it.
            work: Gets an ``emit`` and the cancel token, returns the last event.
            stopped: Makes the last event of work that was cancelled before it had a result.

        Returns:
            The running operation.

        Raises:
            SessionBusyError: Something else is running.
        """

        def run(emit: Emit[E], cancel: CancelToken) -> E:
            self._token = cancel
            self._ahead.stop()
            try:
                return work(emit, cancel)
            except CancelledOperation:
                if stopped is None:
                    raise
                return stopped()

        self._take(name)
        try:
            return Operation(name, run, on_end=self._release)
        except RuntimeError:  # the system has no thread left
            self._release()
            raise

    @contextmanager
    def _exclusive(self, name: str) -> Iterator[None]:
        """Keep operations out of a short change.

        Raises:
            SessionBusyError: Something is running.
        """
        self._take(name)
        try:
            self._ahead.stop()
            yield
        finally:
            self._release()

    def _take(self, name: str) -> None:
        with self._lock:
            if self._busy is not None:
                raise SessionBusyError(
                    f"Cannot {name} now: a {self._busy} operation is running on this session.",
                    hint="Wait for it, or stop it first.",
                )
            self._busy = name
            self._free.clear()
            self._ahead.cancel()
        self._tell()

    def _release(self) -> None:
        with self._lock:
            self._busy = self._token = None
            self._free.set()
            self._ahead.start()
        self._tell()

    def _set_engine(self, opened: OpenedEngine | None, config: LoadConfig | None) -> None:
        """Put another engine in place and free the one that was there."""
        self._ahead.stop()
        self._drop_second()
        old, self._opened, self._config = self._opened, opened, config
        self._conversations.forget_windows()
        if old is None:
            return
        old.engine.close()
        if old.loaded is not None:
            from llmmagic.core.models.memory import release_memory

            del old
            release_memory()

    def _drop_second(self) -> None:
        """Free the other engine: its weights are no longer those of the session, or its memory is needed."""
        if self._second is not None:
            self._second.engine.close()
            self._second = None

    def _weights_changed(self) -> ModelInfo:
        """After training, or with another adapter: what the KV cache holds is no longer true."""
        opened = self._require("Changing the weights")
        opened.engine.reset()
        self._drop_second()
        if opened.loaded is not None:
            opened.info = opened.loaded.info
        return opened.info

    def _require(self, doing: str) -> OpenedEngine:
        if self._opened is None:
            raise ModelNotLoadedError(
                f"{doing} needs a model, and none is loaded.", hint="Load one first: %llm_load demo, or session.load."
            )
        return self._opened

    def _require_loaded(self, doing: str) -> LoadedModel:
        opened = self._require(doing)
        loaded = opened.loaded
        info = opened.info
        if loaded is None and info.server is not None:
            raise ModelNotLoadedError(
                f"{doing} needs the model on this machine, and {info.model_id} runs on the server {info.server}.",
                hint=f"Load it here: %llm_load {info.model_id} (in Python: session.load({info.model_id!r})).",
            )
        if loaded is None and opened.info.engine == "llama.cpp":
            raise ModelNotLoadedError(
                f"{doing} needs the model in Transformers, and it is loaded with llama.cpp, which only chats.",
                hint="Load it again with --engine transformers (in Python: engine='transformers').",
            )
        if loaded is None:
            raise ModelNotLoadedError(
                f"{doing} needs the model in this process, and it runs in another one.",
                hint="Load it in a notebook, or with Session() instead of Session(worker=True).",
            )
        return loaded
