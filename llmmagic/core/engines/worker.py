"""The worker engine: the model lives in a child process, and this one never imports torch.

Drawing never waits for the model's Python work, and a crash or an out-of-memory kill of the model costs a restart, not
the conversation. The child ends with this process, however that ends: its standard input then closes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from typing_extensions import override

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import GenerationConfig, LoadConfig
from llmmagic.core.engines.base import Capabilities, Engine
from llmmagic.core.engines.opened import OpenedEngine
from llmmagic.core.engines.worker_handle import WorkerHandle
from llmmagic.core.errors import EngineError
from llmmagic.core.events import EngineEvent, LoadEvent, ModelInfo
from llmmagic.core.operation import CancelToken


class WorkerEngine(Engine):
    """Generates with a model in a child process.

    Example:
        >>> from llmmagic.core.engines.opened import open_engine
        >>> from llmmagic.core.config import GenerationConfig, LoadConfig
        >>> from llmmagic.core.operation import CancelToken
        >>> cancel = CancelToken()
        >>> config = LoadConfig(model_id="tiny-random")
        >>> opened = open_engine(config, worker=True, emit=lambda event: None, cancel=cancel)
        >>> ids = opened.template.encode([{"role": "user", "content": "Hello"}])
        >>> list(opened.engine.generate(ids, GenerationConfig(max_new_tokens=8), cancel))[-1].finish_reason
        'length'
        >>> opened.engine.close()
    """

    def __init__(self, config: LoadConfig) -> None:
        """Set up; `load` starts the process.

        Args:
            config: Which model, and how.
        """
        self._config = config
        self._info: ModelInfo | None = None
        self._capabilities = Capabilities()
        self._process: WorkerHandle | None = None
        self._finalizer: weakref.finalize[..., Any] | None = None

    @classmethod
    def load(cls, config: LoadConfig, *, emit: Callable[[LoadEvent], None], cancel: CancelToken) -> OpenedEngine:
        """Start a process and load a model in it.

        Args:
            config: Which model, and how.
            emit: Called with `LoadProgress` and `Notice`.
            cancel: Passed on to the child; a load that does not hear it in time is killed.

        Returns:
            The engine with the model's chat template and description.

        Raises:
            ModelError: It cannot be loaded; what the child raised.
            EngineError: The child could not be started, or died.
            CancelledOperation: It was cancelled.
        """
        engine = cls(config)
        template, info = engine._start(emit, cancel)
        return OpenedEngine(engine, template, info)

    def restart(self, *, emit: Callable[[LoadEvent], None], cancel: CancelToken) -> None:
        """Load the same model in a new process, after the old one died or to get rid of it.

        Args:
            emit: As in `load`.
            cancel: As in `load`.

        Raises:
            ModelError: As in `load`.
            EngineError: As in `load`.
            CancelledOperation: As in `load`; there is no process then.
        """
        self.close()
        self._start(emit, cancel)

    def _start(self, emit: Callable[[LoadEvent], None], cancel: CancelToken) -> tuple[ChatTemplate, ModelInfo]:
        process = WorkerHandle()
        self._process = process
        # Not `self.close`: the finalizer must not keep the engine alive.
        self._finalizer = weakref.finalize(self, process.close)
        try:
            result = process.load(self._config, emit, cancel)
            template = ChatTemplate.from_payload(result["template"])
        except BaseException:
            self.close()
            raise
        self._capabilities = result["capabilities"]
        self._info = result["info"]
        return template, result["info"]

    @property
    @override
    def name(self) -> str:
        return self._loaded_info.engine

    @property
    @override
    def context_window(self) -> int:
        return self._loaded_info.context_window

    @property
    def _loaded_info(self) -> ModelInfo:
        if self._info is None:
            raise EngineError("No model is loaded.", hint="Load one first.")
        return self._info

    @property
    @override
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def alive(self) -> bool:
        """Whether the child process is there."""
        return self._process is not None and self._process.alive

    @property
    def pid(self) -> int | None:
        """Process id of the child, to look at its memory; ``None`` when there is none."""
        return self._process.pid if self._process is not None and self.alive else None

    @override
    def generate(
        self, prompt_ids: Sequence[int], config: GenerationConfig, cancel: CancelToken
    ) -> Iterator[EngineEvent]:
        """Generate a reply; see `Engine.generate`. Tokens that come quickly are joined into one `TextDelta`.

        Raises:
            ContextOverflowError: The prompt leaves no room for a reply.
            EngineError: Generation failed, or the process died; then `alive` is false and `restart` helps.
        """
        process = self._living_process()
        yield from process.run(cancel, "generate", prompt_ids=list(prompt_ids), config=config)

    @override
    def prefill_ahead(self, prompt_ids: Sequence[int], cancel: CancelToken) -> int:
        result: dict[str, Any] = {}
        for _ in self._living_process().run(cancel, "prefill_ahead", result, prompt_ids=list(prompt_ids)):
            pass
        return int(result["tokens"])

    @override
    def memory_bytes(self, device: str) -> int:
        if device == "cpu":  # seen from here, without a word to the child, which may be busy
            from llmmagic.core.models.memory import process_memory_bytes

            return process_memory_bytes(self._living_process().pid)
        result: dict[str, Any] = {}
        for _ in self._living_process().run(CancelToken(), "memory", result, device=device):
            pass
        return int(result["bytes"])

    @override
    def reset(self) -> None:
        for _ in self._living_process().run(CancelToken(), "reset"):
            pass

    @override
    def close(self) -> None:
        """End the process. Safe to call twice, and from another thread than the one that generates."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = None

    def _living_process(self) -> WorkerHandle:
        if self._process is None:
            raise EngineError("The model process is closed.", hint="Load the model again.")
        return self._process
