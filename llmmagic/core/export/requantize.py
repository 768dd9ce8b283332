"""A GGUF file in 4 bits, made of one in 16: the converter itself writes no type below 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmmagic.core.events import LoadEvent, LoadProgress

_BLOCK = 32  # weights that share one scale, in both types (ggml-common.h: QK4_0, QK8_0)
# Looked up or multiplied with once a token, and what every reply is read from: 4 bits are felt most here.
_EIGHT_BITS = ("token_embd.weight", "output.weight")


def requantize(source: Path, target: Path, emit: Callable[[LoadEvent], None]) -> None:
    """Round the matrices of a GGUF file to Q4_0, embedding and output matrix to Q8_0; vectors stay.

    Both types have kernels in llama.cpp that are fast on any CPU. One tensor is in memory at a time.

    Args:
        source: A file with 16-bit or 32-bit weights.
        target: To be written.
        emit: Gets the progress.

    Raises:
        OSError: It cannot be written.
    """
    import gguf

    reader = gguf.GGUFReader(str(source))
    writer = gguf.GGUFWriter(str(target), str(reader.get_field("general.architecture").contents()))
    _copy_fields(reader, writer)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    types = [_type_for(tensor) for tensor in reader.tensors]
    for tensor, kind in zip(reader.tensors, types, strict=True):
        shape = tuple(int(size) for size in reversed(tensor.shape))
        stored = gguf.quant_shape_to_byte_shape(shape, kind) if kind in (_q4(), _q8()) else shape
        block, size = gguf.GGML_QUANT_SIZES[kind]
        nbytes = int(tensor.n_elements) // block * size
        dtype = _plain_dtype(kind)
        writer.add_tensor_info(tensor.name, stored, dtype, nbytes, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, (tensor, kind) in enumerate(zip(reader.tensors, types, strict=True)):
        emit(LoadProgress("quantize", number, len(types), "tensors", "q4_0"))
        data = tensor.data if kind == tensor.tensor_type else _quantized(tensor, kind)
        writer.write_tensor_data(data)
    writer.close()
    emit(LoadProgress("quantize", len(types), len(types), "tensors", "q4_0"))


def _q4() -> Any:
    import gguf

    return gguf.GGMLQuantizationType.Q4_0


def _q8() -> Any:
    import gguf

    return gguf.GGMLQuantizationType.Q8_0


def _type_for(tensor: Any) -> Any:
    """What a tensor becomes. Rows that are no whole number of blocks stay as they are."""
    if len(tensor.shape) < 2 or int(tensor.shape[0]) % _BLOCK:
        return tensor.tensor_type
    return _q8() if tensor.name in _EIGHT_BITS else _q4()


def _plain_dtype(kind: Any) -> Any:
    import gguf
    import numpy as np

    plain = {gguf.GGMLQuantizationType.F32: np.float32, gguf.GGMLQuantizationType.F16: np.float16}
    return np.dtype(plain.get(kind, np.uint8))


def _quantized(tensor: Any, kind: Any) -> Any:
    import gguf

    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    return gguf.quants.quantize(values, kind)


def _copy_fields(reader: Any, writer: Any) -> None:
    import gguf

    for field in reader.fields.values():
        # The first are of the file, not of the model; the writer has its own.
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
