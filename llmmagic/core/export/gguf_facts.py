"""What the header of a GGUF file says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmmagic.core.errors import ModelLoadError


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
    adds_bos: bool = False
    """Whether a program that tokenises by this file puts a first token before every prompt."""


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
            adds_bos=_adds_bos(reader),
        )
    except (OSError, ValueError, IndexError, KeyError, OverflowError, StopIteration) as err:
        raise ModelLoadError(f"The GGUF file {str(file)!r} cannot be read.", hint="Download it again.") from err


def _adds_bos(reader: Any) -> bool:
    field = reader.get_field("tokenizer.ggml.add_bos_token")
    if field is not None:
        return bool(field.contents())
    return bool(_value(reader, "tokenizer.ggml.model") == "llama")  # SentencePiece: llama.cpp's own default


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise KeyError(key)
    return field.contents()
