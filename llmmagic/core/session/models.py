"""The part of a session that has to do with the model and its adapters."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import LoadConfig, replace_known
from llmmagic.core.errors import ConfigError, ModelMemoryError
from llmmagic.core.events import Cancelled, LoadEvent, LoadFinished, ModelInfo, Notice
from llmmagic.core.operation import CancelToken, Operation
from llmmagic.core.session.base import Emit, SessionBase

if TYPE_CHECKING:
    from llmmagic.core.engines.opened import OpenedEngine


class ModelOperations(SessionBase):
    """Load, unload, and everything about adapters."""

    def load(self, model: str | LoadConfig, **settings: Any) -> Operation[LoadEvent]:
        """Load a model, in place of the one that is loaded.

        The old one stays until the new one is ready, unless memory holds only one of them: that is said before it is
        let go. Loading again what is loaded already does nothing.

        Args:
            model: A model name (see `LoadConfig.model_id`), or a whole config.
            **settings: Fields of `LoadConfig`, when ``model`` is a name.

        Returns:
            Events; the last is `LoadFinished`, or `Cancelled`.

        Raises:
            ConfigError: An unknown setting, or a value that is not allowed.
            SessionBusyError: Something else is running.
            ModelError: While the events are read: not found, not loadable, too large.
            NetworkError: Likewise: a download failed.
            StorageError: Likewise: no room to store what was downloaded or converted.
        """
        if isinstance(model, LoadConfig):
            if settings:
                raise ConfigError("Settings come with a model name, not with a LoadConfig.")
            config = model
        else:
            config = replace_known(LoadConfig, {"model_id": model, **settings})
        return self._start("load", partial(self._load, config), stopped=lambda: Cancelled("load"))

    def _load(self, config: LoadConfig, emit: Emit[LoadEvent], cancel: CancelToken) -> LoadEvent:
        started = time.monotonic()
        if self._opened is not None and self._config == config and self.alive and not config.force:
            return LoadFinished(self._opened.info, reused=True, duration_s=0.0)
        opened = self._open(config, emit, cancel)
        for notice in opened.template.notices:
            emit(notice)
        self._set_engine(opened, config)
        return LoadFinished(opened.info, reused=False, duration_s=time.monotonic() - started)

    def _open(self, config: LoadConfig, emit: Emit[LoadEvent], cancel: CancelToken) -> OpenedEngine:
        """Open an engine beside the one that is there, or in its place if memory holds only one of them."""
        from llmmagic.core.engines.opened import open_engine, open_for_chat

        chatting = self._chat_only and not self._worker
        open_it = open_for_chat if chatting else partial(open_engine, worker=self._worker)
        try:
            return open_it(config, emit=emit, cancel=cancel)
        except ModelMemoryError as err:
            old = self.info
            if old is None or old.device != err.device or err.needed_bytes > err.free_bytes + old.memory_bytes:
                raise
            emit(
                Notice(
                    f"Memory does not hold {config.model_id} beside {old.model_id}, which is unloaded first.",
                    level="warning",
                    topic="memory",
                )
            )
        self._set_engine(None, None)
        return open_it(config, emit=emit, cancel=cancel)

    def unload(self) -> None:
        """Let the model go and free its memory. Conversations stay.

        Raises:
            SessionBusyError: Something is running.
        """
        with self._exclusive("unload"):
            self._set_engine(None, None)

    def memory_bytes(self) -> int:
        """Memory that the model takes now: on its GPU, or else of the whole process that it lives in.

        Cheap. While a worker process writes a reply on a GPU, the answer waits for the reply to end.

        Raises:
            ModelNotLoadedError: No model is loaded.
            EngineError: Its process is gone.
        """
        opened = self._require("Measuring its memory")
        return opened.engine.memory_bytes(opened.info.device)

    @property
    def model(self) -> Any:
        """The Transformers or PEFT model.

        Raises:
            ModelNotLoadedError: None is loaded, or it lives in another process.
        """
        return self._require_loaded("Reading the weights").model

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer.

        Raises:
            ModelNotLoadedError: None is loaded, or it lives in another process.
        """
        return self._require_loaded("Reading the tokenizer").tokenizer

    # --- adapters -------------------------------------------------------------------------------------------------

    def save_adapter(self, folder: str | Path, *, name: str | None = None) -> Path:
        """Save an adapter as a PEFT folder, which `load` takes as a model name.

        Args:
            folder: Made if it is not there.
            name: Which one; the active one if not given.

        Returns:
            The folder.

        Raises:
            ModelNotLoadedError: No model is loaded.
            AdapterError: No adapter of that name, or none at all.
            StorageError: It could not be written.
            SessionBusyError: Something is running.
        """
        from llmmagic.core.models.adapters import save_adapter

        loaded = self._require_loaded("Saving an adapter")
        with self._exclusive("save"):
            return save_adapter(loaded, Path(folder).expanduser(), name=name)

    def load_adapter(self, source: str | Path, *, name: str | None = None) -> ModelInfo:
        """Put a saved adapter on the model and chat with it from now on.

        Args:
            source: PEFT folder or Hub id.
            name: What to call it; the folder's name if not given.

        Returns:
            What is loaded now.

        Raises:
            ModelNotLoadedError: No model is loaded.
            AdapterError: It is broken, or belongs to another base model; the session is as it was.
            SessionBusyError: Something is running.
        """
        from llmmagic.core.models.adapters import attach_adapter

        loaded = self._require_loaded("Loading an adapter")
        with self._exclusive("load"):
            attach_adapter(loaded, str(source), name=name)
            return self._weights_changed()

    def use_adapter(self, name: str | None) -> ModelInfo:
        """Chat with another adapter of those that are loaded, or with the bare model.

        Args:
            name: One of ``info.adapters``; ``None`` for none.

        Returns:
            What is loaded now.

        Raises:
            ModelNotLoadedError: No model is loaded.
            AdapterError: No adapter of that name.
            SessionBusyError: Something is running.
        """
        from llmmagic.core.models.adapters import use_adapter

        loaded = self._require_loaded("Choosing an adapter")
        with self._exclusive("load"):
            use_adapter(loaded, name)
            return self._weights_changed()
