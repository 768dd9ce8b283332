"""A GGUF file for Transformers: its weights unpacked and saved once as a Transformers folder in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from llmmagic.core.errors import ModelLoadError, ModelMemoryError
from llmmagic.core.models.cache import Emit, find_entry, fingerprint_file, make_entry
from llmmagic.core.models.memory import free_memory_bytes
from llmmagic.core.models.progress import EventBar, library_bars, quiet_libraries
from llmmagic.core.models.tokenizer import first_line, tokenizer_errors
from llmmagic.core.operation import CancelToken

CONVERTED = "converted"
"""Kind of these entries in the cache."""
TOKENIZERS = "tokenizers"
"""Kind of the entries that hold only a tokenizer."""
_FORMAT = 1  # raise it when the folders written here change
_MAGIC = b"GGUF"
_TOKENIZER_BYTES = 32 * 2**20
# Vocabularies that were learned on text with every digit on its own. The names are those of llama.cpp
# (src/llama-vocab.cpp, the pre-tokenizer types whose first expression is \p{N}); transformers does not split for them.
_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})


def convert_gguf(file: Path, *, emit: Emit, cancel: CancelToken, key: str | None = None) -> Path:
    """Make a Transformers folder of a GGUF file, or find the one that was made before.

    Args:
        file: The GGUF file.
        emit: Gets the progress.
        cancel: Checked between tensors.
        key: Name of the cache entry; by default one that follows the file's content.

    Returns:
        A folder with ``model.safetensors``, tokenizer, chat template and configs. The weights are the dequantised
        values, in float32 if the file has float32 matrices, else in a 16-bit type that holds what the file holds.

    Raises:
        ModelLoadError: No GGUF file, or of an architecture that transformers cannot convert.
        ModelMemoryError: Too large to be unpacked here.
        StorageError: No space left for the result.
    """
    stem = "".join(char if char.isalnum() or char in "-_." else "-" for char in file.stem[:60])
    key = key or f"{stem}-{fingerprint_file(file)}"
    key = f"{key}-v{_FORMAT}"
    found = find_entry(CONVERTED, key)
    if found is not None:
        return found
    facts = _read_facts(file)
    needed = facts["elements"] * facts["bytes_per_weight"]
    free = free_memory_bytes()
    if needed > free:
        raise ModelMemoryError(
            f"Converting {str(file)!r} takes {needed / 1e9:,.2f} GB of memory; {free / 1e9:,.2f} GB are free.",
            hint="Use a smaller model, or close other programs.",
            needed_bytes=needed,
            free_bytes=free,
        )

    def build(folder: Path) -> None:
        _convert(file, folder, facts, emit=emit, cancel=cancel)

    return make_entry(CONVERTED, key, build, needed_bytes=needed + _TOKENIZER_BYTES, emit=emit, cancel=cancel)


def convert_gguf_tokenizer(file: Path, *, emit: Emit, cancel: CancelToken) -> Path:
    """Make a tokenizer folder of a GGUF file, or find the one that was made before. The weights stay in the file.

    Args:
        file: The GGUF file.
        emit: Told when another process is waited for.
        cancel: Checked before it begins.

    Returns:
        A folder with ``tokenizer.json``, its config and the chat template.

    Raises:
        ModelLoadError: No GGUF file, or with a tokenizer that transformers cannot convert.
        StorageError: No space left for the result.
    """

    def build(folder: Path) -> None:
        from transformers import AutoTokenizer

        facts = _read_facts(file)
        cancel.check()
        with quiet_libraries():
            try:
                with tokenizer_errors(str(file)):
                    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
            except (ValueError, KeyError, NotImplementedError, RuntimeError) as err:
                raise ModelLoadError(f"The tokenizer in {str(file)!r} cannot be converted: {first_line(err)}.") from err
            _repair_tokenizer(tokenizer, facts, tokenizer.model_max_length)
            tokenizer.save_pretrained(folder)

    key = f"{fingerprint_file(file)}-v{_FORMAT}"
    return make_entry(TOKENIZERS, key, build, needed_bytes=_TOKENIZER_BYTES, emit=emit, cancel=cancel)


def _read_facts(file: Path) -> dict[str, Any]:
    """What the file's header says: number of weights, the dtype that holds them, and its kind of tokenizer."""
    from gguf import GGMLQuantizationType, GGUFReader

    with file.open("rb") as raw:
        if raw.read(4) != _MAGIC:
            raise ModelLoadError(f"{str(file)!r} is no GGUF file.")
    try:
        reader = GGUFReader(str(file))
    except (ValueError, IndexError, OverflowError) as err:  # what the reader raises on a truncated or damaged file
        raise ModelLoadError(f"The GGUF file {str(file)!r} is damaged.", hint="Download it again.") from err
    matrices = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1}
    if GGMLQuantizationType.F32 in matrices:
        dtype = "float32"
    elif GGMLQuantizationType.BF16 in matrices:
        dtype = "bfloat16"
    else:
        dtype = "float16"  # scales of quantised blocks are float16
    pre = reader.get_field("tokenizer.ggml.pre")
    special = {f"{name}_token": reader.get_field(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return {
        "elements": sum(int(tensor.n_elements) for tensor in reader.tensors),
        "dtype": dtype,
        "bytes_per_weight": 4 if dtype == "float32" else 2,
        "pre": "" if pre is None else str(pre.contents()),
        "special_ids": {name: int(field.contents()) for name, field in special.items() if field is not None},
    }


def _convert(file: Path, folder: Path, facts: dict[str, Any], *, emit: Emit, cancel: CancelToken) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source, options = str(file.parent), {"gguf_file": file.name}
    # Newer versions keep the blocks of the file unless told, and refuse to save them; older ones always unpack.
    newer = hasattr(transformers, "GgufConfig")
    unpack: dict[str, Any] = {"quantization_config": transformers.GgufConfig(dequantize=True)} if newer else {}
    with quiet_libraries():
        try:
            with tokenizer_errors(str(file)):
                tokenizer = AutoTokenizer.from_pretrained(source, **options)
            cancel.check()
            with library_bars("convert", emit=emit, cancel=cancel), _reader_bar(emit=emit, cancel=cancel):
                model, report = AutoModelForCausalLM.from_pretrained(
                    source,
                    output_loading_info=True,
                    dtype=getattr(torch, facts["dtype"]),
                    **options,
                    **unpack,
                )
        except (ValueError, KeyError, NotImplementedError, RuntimeError) as err:
            raise ModelLoadError(f"transformers cannot convert {str(file)!r}: {first_line(err)}.") from err
        if report["missing_keys"]:
            hint = "It is one part of several: merge them with llama-gguf-split." if "-of-" in file.stem else ""
            first = min(report["missing_keys"])
            raise ModelLoadError(f"The GGUF file {str(file)!r} lacks weights, {first!r} for instance.", hint=hint)
        cancel.check()
        _repair_tokenizer(tokenizer, facts, model.config.max_position_embeddings)
        if getattr(model.config, "quantization_config", None) is not None:
            del model.config.quantization_config
        with library_bars("save", emit=emit, cancel=cancel):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)


@contextmanager
def _reader_bar(*, emit: Emit, cancel: CancelToken) -> Iterator[None]:
    """The loop that unpacks blocks draws a bar that goes past the hook of transformers, so its name there is ours."""
    reader: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    drawn = reader.tqdm
    reader.tqdm = lambda tensors, **_options: EventBar(
        tensors, stage="convert", unit="tensors", emit=emit, cancel=cancel
    )
    try:
        yield
    finally:
        reader.tqdm = drawn


def _repair_tokenizer(tokenizer: Any, facts: dict[str, Any], context_window: int) -> None:
    """Give it what the file says and transformers leaves out, or got wrong in its first version 5."""
    from tokenizers import pre_tokenizers

    for name, token_id in facts["special_ids"].items():
        setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
    if facts["pre"] in _SINGLE_DIGITS:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    tokenizer.model_max_length = context_window
