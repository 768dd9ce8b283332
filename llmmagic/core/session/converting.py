"""The part of a session that answers through llama.cpp what was loaded, and trained, with Transformers."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from llmmagic.core.config import EngineName, LoadConfig
from llmmagic.core.errors import ConfigError, ModelLoadError, did_you_mean
from llmmagic.core.events import Cancelled, LoadEvent, LoadFinished, Notice
from llmmagic.core.operation import CancelToken, Operation
from llmmagic.core.session.base import Emit, SessionBase

if TYPE_CHECKING:
    from llmmagic.core.engines.opened import OpenedEngine
    from llmmagic.core.export.source import ExportSource
    from llmmagic.core.models.loaded import LoadedModel


class ConvertingOperations(SessionBase):
    """Get the loaded model ready for another engine, beside the one it was loaded with."""

    def prepare_engine(self, engine: EngineName) -> Operation[LoadEvent]:
        """Get an engine ready for `chat`, so that no reply has to wait for it.

        For ``llama.cpp`` the loaded model is converted, its active adapter merged in; what was converted before is
        found again. The model stays loaded for training, and the converted one is kept beside it until the weights
        change or it is unloaded.

        Args:
            engine: ``llama.cpp``, or the one that the model was loaded with.

        Returns:
            Events; the last is `LoadFinished`, or `Cancelled`.

        Raises:
            ConfigError: An engine that the loaded model cannot be given to.
            ModelNotLoadedError: No model is loaded.
            SessionBusyError: Something else is running.
            ModelError: While the events are read: it cannot be converted, or memory does not hold it.
            StorageError: Likewise: no room for the file.
        """
        self._check_engine(engine)
        return self._start("load", partial(self._prepare, engine), stopped=lambda: Cancelled("load"))

    def engine_ready(self, engine: EngineName) -> bool:
        """Whether `chat` would answer through an engine at once.

        Raises:
            ConfigError: An engine that the loaded model cannot be given to.
            ModelNotLoadedError: No model is loaded.
        """
        opened = self._check_engine(engine)
        return engine in ("auto", opened.info.engine) or self._second is not None

    def _prepare(self, engine: EngineName, emit: Emit[LoadEvent], cancel: CancelToken) -> LoadEvent:
        started = time.monotonic()
        ready = self.engine_ready(engine)
        opened = self._engine(engine, emit, cancel)
        return LoadFinished(opened.info, reused=ready, duration_s=time.monotonic() - started)

    def _check_engine(self, engine: EngineName) -> OpenedEngine:
        opened = self._require("Chatting")
        if engine in ("auto", opened.info.engine):
            return opened
        if engine == "llama.cpp" and opened.loaded is not None:
            return opened
        if engine not in get_args(EngineName):
            known = get_args(EngineName)
            raise ConfigError(
                f"engine must be one of {', '.join(known)}, got {engine!r}.", hint=did_you_mean(str(engine), known)
            )
        model_id = opened.info.model_id
        raise ConfigError(
            f"{model_id} was loaded with {opened.info.engine} and cannot answer through {engine}.",
            hint=f"Load it with the other one: %llm_load {model_id} --engine {engine}.",
        )

    def _engine(self, engine: EngineName, emit: Emit[LoadEvent], cancel: CancelToken) -> OpenedEngine:
        """The engine of that name, made ready if it is not."""
        opened = self._check_engine(engine)
        if engine in ("auto", opened.info.engine) or opened.loaded is None:
            return opened
        if self._second is None:
            self._second = _convert(opened.loaded, emit, cancel)
        return self._second


def _convert(loaded: LoadedModel, emit: Emit[LoadEvent], cancel: CancelToken) -> OpenedEngine:
    """The weights that a session chats with now, for llama.cpp."""
    from llmmagic.core.engines.gguf_convert import convert_once
    from llmmagic.core.engines.gguf_file import GGUFModel
    from llmmagic.core.engines.llama_cpp_loader import open_gguf, require_llama_cpp

    require_llama_cpp()
    with tempfile.TemporaryDirectory(prefix="llmmagic-") as temp:
        source = source_of(loaded, Path(temp))
        made = convert_once(source, "auto", emit=emit, cancel=cancel)
    model = GGUFModel(
        made.file,
        source.folder,
        converted=True,
        adapter=loaded.info.adapter,
        parity=made.parity,
        choices=made.choices,
    )
    config = LoadConfig(
        model_id=loaded.info.model_id,
        engine="llama.cpp",
        max_context=loaded.config.max_context,
        trust_remote_code=loaded.config.trust_remote_code,
    )
    if loaded.info.quantization != "none":
        text = (
            f"llama.cpp gets the full weights in {made.file_type}, not those in {loaded.info.quantization}: replies "
            "may differ in their words."
        )
        emit(Notice(text, topic="converted-weights"))
    opened = open_gguf(config, model, emit=emit, cancel=cancel)
    return replace(opened, info=replace(opened.info, revision=loaded.info.revision))


def source_of(loaded: LoadedModel, folder: Path, name: str | None = None) -> ExportSource:
    """What a session's model is made of, for a conversion.

    Args:
        loaded: The model.
        folder: An empty one, for its adapter.
        name: Which adapter; the active one by default.

    Returns:
        Base and adapter.

    Raises:
        ModelLoadError: The weights of the base are not on the disk.
        AdapterError: No adapter of that name.
    """
    from llmmagic.core.export.source import ExportSource, folder_key
    from llmmagic.core.models.adapters import save_adapter

    if loaded.folder is None:
        raise ModelLoadError(f"The full weights of {loaded.info.model_id} are not on this machine's disk.")
    wanted = name or loaded.info.adapter
    adapter = None if wanted is None else save_adapter(loaded, folder / wanted, name=wanted)
    return ExportSource(
        model_id=loaded.info.model_id,
        base_id=loaded.base_id or str(loaded.folder),
        revision=loaded.base_revision,
        folder=loaded.folder,
        base_key=folder_key(loaded.folder, loaded.base_revision),
        adapter=adapter,
        trust_remote_code=loaded.config.trust_remote_code,
    )
