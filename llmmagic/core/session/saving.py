"""The part of a session that writes models down for elsewhere: merged weights, GGUF files and what Ollama needs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from llmmagic.core.config import GGUFType, SaveFormat
from llmmagic.core.errors import ConfigError, ModelMemoryError, StorageError, did_you_mean
from llmmagic.core.events import Cancelled, LoadEvent, LoadProgress, Notice, SaveEvent, SaveFinished
from llmmagic.core.operation import CancelToken, Operation
from llmmagic.core.session.base import Emit
from llmmagic.core.session.converting import ConvertingOperations, source_of

if TYPE_CHECKING:
    from llmmagic.core.engines.gguf_convert import ConvertedModel
    from llmmagic.core.export.source import ExportSource
    from llmmagic.core.models.loaded import LoadedModel

_CHUNK_BYTES = 2**24


class SavingOperations(ConvertingOperations):
    """Save what was trained."""

    def save(
        self,
        path: str | Path | None = None,
        *,
        format: SaveFormat = "adapter",
        name: str | None = None,
        gguf_type: GGUFType = "auto",
    ) -> Operation[SaveEvent]:
        """Save the model as other programs read it.

        Args:
            path: A folder, or for ``gguf`` a file; by default named after the adapter, in the current folder.
            format: ``adapter`` is a PEFT folder, ``merged`` a Transformers folder with the adapter merged into the full
                weights of its base, ``gguf`` a file for llama.cpp, LM Studio and Ollama with a Modelfile beside it.
            name: Which adapter; the active one if not given.
            gguf_type: Of the GGUF file: ``auto`` is ``q8_0``.

        Returns:
            Events; the last is `SaveFinished`, or `Cancelled`.

        Raises:
            ConfigError: A value that is not allowed.
            ModelNotLoadedError: No model is loaded in this process.
            SessionBusyError: Something else is running.
            AdapterError: While the events are read: no adapter of that name, or none at all.
            ModelError: Likewise: it cannot be merged or converted.
            StorageError: Likewise: it could not be written.
        """
        for option, value, known in (("format", format, SaveFormat), ("gguf_type", gguf_type, GGUFType)):
            if value not in get_args(known):
                allowed = get_args(known)
                raise ConfigError(
                    f"{option} must be one of {', '.join(allowed)}, got {value!r}.", hint=did_you_mean(value, allowed)
                )
        if gguf_type != "auto" and format != "gguf":
            raise ConfigError(f"gguf_type is for the format gguf, not for {format}.")
        loaded = self._require_loaded("Saving a model")
        target = None if path is None else Path(path).expanduser()

        def work(emit: Emit[SaveEvent], cancel: CancelToken) -> SaveEvent:
            if format == "adapter":
                return _save_adapter(loaded, target, name)
            if format == "merged":
                return _save_merged(loaded, target, name, emit, cancel)
            return _save_gguf(gguf_type, loaded, target, name, emit, cancel)

        return self._start("save", work, stopped=lambda: Cancelled("save"))


def _save_adapter(loaded: LoadedModel, target: Path | None, name: str | None) -> SaveFinished:
    from llmmagic.core.models.adapters import save_adapter

    adapter = name or loaded.info.adapter
    folder = save_adapter(loaded, target or Path(adapter or "adapter"), name=name)
    size = (folder / "adapter_model.safetensors").stat().st_size
    return SaveFinished(str(folder), "adapter", size, "float32", adapter)


def _save_merged(
    loaded: LoadedModel, target: Path | None, name: str | None, emit: Emit[SaveEvent], cancel: CancelToken
) -> SaveFinished:
    from llmmagic.core.export.child import Job, run_job
    from llmmagic.core.export.weights import count_weights, loading_dtype, own_dtype
    from llmmagic.core.models.memory import free_memory_bytes

    adapter = name or loaded.info.adapter
    with tempfile.TemporaryDirectory(prefix="llmmagic-") as temp:
        source = source_of(loaded, Path(temp), name)
        folder = target or Path(f"{_stem(source, adapter)}-merged")
        weights, free = count_weights(source.folder), free_memory_bytes()
        dtype = loading_dtype(source.folder, weights, free)
        if dtype is None:
            raise ModelMemoryError(
                f"Merging takes {2 * weights / 1e9:.1f} GB of memory; {free / 1e9:.1f} GB are free.",
                hint="Unload the model and close other programs.",
                needed_bytes=2 * weights,
                free_bytes=free,
            )
        kept = own_dtype(source.folder) or dtype
        with _writing(folder):
            _check_room(folder, 4 * weights)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as partly:
                job = Job(
                    base_id=source.base_id,
                    revision=source.revision,
                    folder=str(source.folder.resolve()),
                    adapter=None if source.adapter is None else str(source.adapter.resolve()),
                    trust_remote_code=source.trust_remote_code,
                    dtype=dtype,
                    reference=False,
                    merged=str(Path(partly, "model").resolve()),
                    save_dtype=kept,
                )
                run_job(job, model_id=source.model_id, log=Path(partly, "log.txt"), emit=_told(emit), cancel=cancel)
                made = sorted(Path(partly, "model").iterdir())
                _refuse_other_weights(folder, {file.name for file in made})
                for file in made:
                    file.replace(folder / file.name)
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    emit(Notice(f"Merged in {dtype}, kept in {kept}.", topic="merged"))
    return SaveFinished(str(folder), "merged", size, kept, adapter)


def _save_gguf(
    gguf_type: GGUFType,
    loaded: LoadedModel,
    target: Path | None,
    name: str | None,
    emit: Emit[SaveEvent],
    cancel: CancelToken,
) -> SaveFinished:
    from llmmagic.core.engines.gguf_convert import convert_once
    from llmmagic.core.engines.llama_cpp_loader import require_llama_cpp
    from llmmagic.core.engines.parity import parity_notices

    require_llama_cpp()
    adapter = name or loaded.info.adapter
    with tempfile.TemporaryDirectory(prefix="llmmagic-") as temp:
        source = source_of(loaded, Path(temp), name)
        made = convert_once(source, gguf_type, emit=_told(emit), cancel=cancel)
    file = target or Path(".")
    if file.suffix != ".gguf":
        file = file / f"{_stem(source, adapter)}-{made.file_type}.gguf"
    with _writing(file.parent):
        _check_room(file.parent, made.file.stat().st_size)
        _copy(made.file, file, emit, cancel)
        modelfile = _write_modelfile(file, made, loaded, emit)
    for notice in parity_notices(made.parity, source.model_id, made.file_type):
        emit(notice)
    size = file.stat().st_size
    return SaveFinished(str(file), "gguf", size, made.file_type, adapter, str(modelfile), made.parity)


def _write_modelfile(file: Path, made: ConvertedModel, loaded: LoadedModel, emit: Emit[SaveEvent]) -> Path:
    from llmmagic.core.chat.template import ChatTemplate
    from llmmagic.core.export.gguf_facts import read_facts
    from llmmagic.core.export.modelfile import find_pieces, modelfile

    facts, template = read_facts(file), ChatTemplate.from_tokenizer(loaded.tokenizer)
    pieces = find_pieces(template)
    if pieces is None:
        text = "The chat template cannot be written as Ollama's: that will guess one, or take the one in the file."
        emit(Notice(text, level="warning", topic="modelfile"))
    if not made.pre_tokenizer_known:
        text = "llama.cpp has no name for how this tokenizer splits text: other programs may split it differently."
        emit(Notice(text, level="warning", topic="pre-tokenizer"))
    result = file.with_suffix(".Modelfile")
    text = modelfile(file.name, template, pieces=pieces, adds_bos=facts.adds_bos, context_window=facts.context_length)
    result.write_text(text, encoding="utf-8")
    return result


def _told(emit: Emit[SaveEvent]) -> Emit[LoadEvent]:
    """Hand on what a conversion says; it never says that something is loaded."""

    def tell(event: LoadEvent) -> None:
        if isinstance(event, (LoadProgress, Notice)):
            emit(event)

    return tell


def _stem(source: ExportSource, adapter: str | None) -> str:
    """A name for files: the adapter's, or the model's."""
    text = adapter or Path(source.model_id).name
    return "".join(char if char.isalnum() or char in "-_." else "-" for char in text) or "model"


def _copy(source: Path, target: Path, emit: Emit[SaveEvent], cancel: CancelToken) -> None:
    """Beside its place first: an interrupted copy leaves what was there."""
    size, done = source.stat().st_size, 0
    partly = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with source.open("rb") as reader, partly.open("wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                cancel.check()
                writer.write(chunk)
                done += len(chunk)
                emit(LoadProgress("save", done, size, "bytes", target.name))
        partly.replace(target)
    finally:
        partly.unlink(missing_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Within it a folder is written; what the system says against that becomes a `StorageError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as err:
        raise StorageError(f"The model cannot be written to {str(folder)!r}: {err.strerror or err}.") from err


def _check_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StorageError(
            f"No space left in {str(folder)!r}: {needed_bytes / 1e6:,.0f} MB are needed, {free / 1e6:,.0f} MB are free."
        )


def _refuse_other_weights(folder: Path, made: set[str]) -> None:
    other = [file.name for file in folder.glob("*.safetensors") if file.name not in made]
    if other:
        raise StorageError(
            f"{str(folder)!r} holds other weights ({other[0]}), which would be taken for a part of the model.",
            hint="Choose another folder.",
        )
