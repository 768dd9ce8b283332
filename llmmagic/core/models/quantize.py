"""bitsandbytes quantisation: the config of a scheme, and what has to be known about its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCHEMES = ("nf4", "fp4", "int8")
QUANTIZED = "quantized"
"""Kind of these entries in the cache."""
_FORMAT = 1  # raise it when the folders written here change


def quantization_config(scheme: str, dtype: str) -> Any:
    """The Transformers config of a scheme.

    Args:
        scheme: ``"nf4"``, ``"fp4"`` or ``"int8"``.
        dtype: What 4-bit layers compute in.

    Returns:
        A ``BitsAndBytesConfig``. 4-bit scales are quantised again ("double quantisation", arXiv:2305.14314).
    """
    import torch
    from transformers import BitsAndBytesConfig

    if scheme == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=scheme,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def cache_key(source_key: str, scheme: str, dtype: str) -> str:
    """Name of a quantised model in the cache: everything that its content depends on.

    Args:
        source_key: Names the content of the full weights.
        scheme: How they are quantised.
        dtype: Of what is not quantised.

    Returns:
        A file name.
    """
    from importlib.metadata import version

    library = ".".join(version("bitsandbytes").split(".")[:2])
    return f"{source_key}-{scheme}-{dtype}-bnb{library}-v{_FORMAT}"


def settle_layers(model: PreTrainedModel, dtype: str) -> None:
    """Keep 4-bit layers from repacking themselves.

    On CPUs with AVX512-BF16, bitsandbytes repacks a 4-bit layer at its first inference. Such a layer computes in
    bfloat16 whatever was asked for, and passes no gradient on: training after a chat would silently learn next to
    nothing. Measured there with float32 compute: logits off by 1.0, input gradients 500 times too small.

    Args:
        model: Just loaded.
        dtype: What 4-bit layers compute in, whatever the files say they did where they were quantised.
    """
    import bitsandbytes as bnb
    import torch

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.compute_dtype = getattr(torch, dtype)
