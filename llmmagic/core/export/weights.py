"""How many weights a model folder has, and what they take up in one type or another. Reads only headers."""

from __future__ import annotations

import json
from pathlib import Path

from llmmagic.core.errors import ModelLoadError
from llmmagic.core.models.names import MODEL_CONFIG
from llmmagic.core.models.tokenizer import first_line

# Blocks of 32 weights with a 16-bit scale each (ggml-common.h: block_q4_0, block_q8_0).
_BYTES_PER_WEIGHT = {"q4_0": 18 / 32, "q8_0": 34 / 32, "f16": 2.0, "bf16": 2.0, "f32": 4.0}
_MARGIN = 1.25
"""Of the weights: tensors on their way, and what the libraries take."""


def count_weights(folder: Path) -> int:
    """Number of weights in the safetensors files of a folder.

    Args:
        folder: A Transformers model.

    Returns:
        As many as are stored; of a quantised model fewer than it has.

    Raises:
        ModelLoadError: A file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="np") as tensors:
                for name in tensors.keys():
                    count = 1
                    for size in tensors.get_slice(name).get_shape():
                        count *= int(size)
                    total += count
        except (SafetensorError, OSError) as err:
            raise ModelLoadError(
                f"The weights {str(file)!r} cannot be read: {first_line(err)}.",
                hint="Download or save the model again.",
            ) from err
    return total


def file_bytes(weights: int, file_type: str) -> int:
    """About how large a GGUF file gets: embedding and vectors, which have other types, are not told apart."""
    return int(weights * _BYTES_PER_WEIGHT[file_type])


def own_dtype(folder: Path) -> str | None:
    """The dtype that a model's config names."""
    config = _config(folder)
    named = config.get("dtype") or config.get("torch_dtype")
    return named if named in ("float32", "bfloat16", "float16") else None


def own_quantization(folder: Path) -> object:
    """The quantisation that a model's weights come in; ``None`` for plain weights."""
    return _config(folder).get("quantization_config")


def loading_dtype(folder: Path, weights: int, free_bytes: int) -> str | None:
    """What full weights are loaded in, to merge an adapter into them or to ask them.

    Args:
        folder: The model.
        weights: Their number.
        free_bytes: Free memory.

    Returns:
        ``float32``, in which no small change that an adapter makes gets lost, else the model's own 16 bits; ``None`` if
        memory holds neither.
    """
    if 4 * weights * _MARGIN <= free_bytes:
        return "float32"
    return (own_dtype(folder) or "bfloat16") if 2 * weights * _MARGIN <= free_bytes else None


def _config(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / MODEL_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise ModelLoadError(f"{MODEL_CONFIG} in {str(folder)!r} cannot be read: {err}") from err
    return found if isinstance(found, dict) else {}
