"""Open a model: the engine that generates with it, and the template that makes its prompts.

Torch-free until a model is really opened in this process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import LoadConfig
from llmmagic.core.engines.base import Engine
from llmmagic.core.errors import ConfigError, ModelLoadError
from llmmagic.core.events import LoadEvent, ModelInfo, Notice
from llmmagic.core.operation import CancelToken

if TYPE_CHECKING:
    from llmmagic.core.models.load import LoadedModel, LoadPlan


@dataclass
class OpenedEngine:
    """An engine with all that is needed to chat with it.

    Attributes:
        engine: Generates.
        template: Renders and counts prompts exactly as the model's tokenizer does.
        info: What is loaded.
        loaded: The weights, when they live in this process; ``None`` when they live elsewhere.
    """

    engine: Engine
    template: ChatTemplate
    info: ModelInfo
    loaded: LoadedModel | None = None


def open_engine(
    config: LoadConfig, *, worker: bool, emit: Callable[[LoadEvent], None], cancel: CancelToken
) -> OpenedEngine:
    """Load a model and get it ready to generate.

    Args:
        config: Which model, and how.
        worker: Keep it in a child process: this one imports no torch, and survives if the model does not.
        emit: Called with `LoadProgress` and `Notice`.
        cancel: Checked while loading.

    Returns:
        The opened engine; close ``engine`` to free its memory.

    Raises:
        ModelError: It cannot be loaded; see there for the kinds.
        NetworkError: A download failed.
        StorageError: No space left for the cache.
        EngineError: The worker process died.
        CancelledOperation: It was cancelled.
    """
    if config.engine == "openai":  # there is nothing of it here that could block or crash
        from llmmagic.core.engines.openai.opening import open_server

        return open_server(config, emit=emit, cancel=cancel)
    if worker:
        from llmmagic.core.engines.worker import WorkerEngine

        return WorkerEngine.load(config, emit=emit, cancel=cancel)
    if config.engine == "llama.cpp":
        from llmmagic.core.engines.llama_cpp_loader import open_llama_cpp

        return open_llama_cpp(config, emit=emit, cancel=cancel)
    from llmmagic.core.models.load import prepare

    _refuse_file_type(config)
    return open_local(prepare(config, emit=emit, cancel=cancel), emit=emit, cancel=cancel)


def open_for_chat(config: LoadConfig, *, emit: Callable[[LoadEvent], None], cancel: CancelToken) -> OpenedEngine:
    """Load a model in this process for chatting only: where ``auto`` may choose, the fastest engine is taken.

    Args:
        config: Which model, and how.
        emit: Called with `LoadProgress` and `Notice`.
        cancel: Checked while loading.

    Returns:
        The opened engine.

    Raises:
        ModelError: As `open_engine`.
        CancelledOperation: It was cancelled.
    """
    if config.engine == "auto":
        from llmmagic.core.engines.llama_cpp_loader import chats_faster, open_llama_cpp

        if chats_faster(config):
            try:
                return open_llama_cpp(config, emit=emit, cancel=cancel)
            except ModelLoadError as err:
                # An information: nothing is worse than without llama.cpp, and it is found out only once.
                emit(Notice(f"Transformers answers, not llama.cpp: {err.message}", "info", "engine"))
                config = replace(config, gguf_type="auto")
    return open_engine(config, worker=False, emit=emit, cancel=cancel)


def _refuse_file_type(config: LoadConfig) -> None:
    """Where ``auto`` has come to transformers: a setting that does nothing must not be taken silently."""
    if config.gguf_type != "auto":
        raise ConfigError(
            f"gguf_type={config.gguf_type} is for llama.cpp, and transformers was chosen.",
            hint="Add --engine llama.cpp (in Python: engine='llama.cpp').",
        )


def open_local(plan: LoadPlan, *, emit: Callable[[LoadEvent], None], cancel: CancelToken) -> OpenedEngine:
    """Load a model in this process, when what it takes is known already.

    Args:
        plan: From `llmmagic.core.models.load.prepare`.
        emit: Called with `LoadProgress` and `Notice`.
        cancel: Checked while loading.

    Returns:
        The opened engine, ``loaded`` set.

    Raises:
        ModelError: It cannot be loaded; see there for the kinds.
        CancelledOperation: It was cancelled.
    """
    from llmmagic.core.engines.transformers import TransformersEngine
    from llmmagic.core.models.load import load_model

    loaded = load_model(plan, emit=emit, cancel=cancel)
    return OpenedEngine(
        engine=TransformersEngine(loaded),
        template=ChatTemplate.from_tokenizer(loaded.tokenizer),
        info=loaded.info,
        loaded=loaded,
    )
