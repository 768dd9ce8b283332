"""How big a model is and how much memory it will take, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmmagic.core.errors import ModelLoadError
from llmmagic.core.models.hardware import Placement
from llmmagic.core.models.quantize import SCHEMES
from llmmagic.core.models.tokenizer import first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

_BLOCK = 64
"""Weights that share one scale in a 4-bit layer; the scales take a byte each, and 4 bytes for every 256 of them."""
_RESERVE_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20, "mps": 256 * 2**20}
"""What the libraries take beside the weights: buffers, kernels, a CUDA context."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Size of a model that is not loaded yet.

    Attributes:
        architecture: Its class in transformers.
        parameters: Number of weights, unquantised.
        weights_bytes: What they take in the chosen scheme and dtype.
        largest_bytes: The largest tensor on its way: as it is read, beside what it becomes.
        reserve_bytes: What the libraries take on top.
    """

    architecture: str
    parameters: int
    weights_bytes: int
    largest_bytes: int
    reserve_bytes: int


def estimate(
    model_config: PretrainedConfig,
    folder: Path,
    placement: Placement,
    *,
    own_scheme: str | None = None,
    trust_remote_code: bool = False,
) -> Estimate:
    """Build the model without memory for its weights, and count.

    Args:
        model_config: Of the model.
        folder: Its files.
        placement: Scheme, dtype and device.
        own_scheme: Quantisation that its files come in.
        trust_remote_code: Let the folder's own code run.

    Returns:
        The figures.

    Raises:
        ModelLoadError: Not a model that generates text, or files that do not fit the config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model_config, trust_remote_code=trust_remote_code)
    except ValueError as err:
        raise ModelLoadError(
            f"{model_config.model_type!r} in {str(folder)!r} is no model that continues text.",
            hint="Only causal language models can be loaded.",
        ) from err
    model.tie_weights()
    width = getattr(torch, placement.dtype).itemsize
    head = model.get_output_embeddings()
    linear = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head
    }
    parameters = weights_bytes = largest = 0
    for weight in model.parameters():  # each shared one once
        parameters += weight.numel()
        quantized = placement.quantization in SCHEMES and id(weight) in linear
        weights_bytes += (
            _quantized_bytes(weight.numel(), placement.quantization) if quantized else weight.numel() * width
        )
        largest = max(largest, weight.numel())
    if own_scheme is None:
        _check_shapes(model, folder)
    elif own_scheme not in SCHEMES:  # its files are what it takes
        weights_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Estimate(
        architecture=type(model).__name__,
        parameters=parameters,
        weights_bytes=weights_bytes,
        largest_bytes=largest * width,
        reserve_bytes=_RESERVE_BYTES[placement.device.partition(":")[0]],
    )


def _check_shapes(model: nn.Module, folder: Path) -> None:
    """Compare the files with the config: quantising on the way in does not, and goes on with the wrong weights."""
    from safetensors import SafetensorError, safe_open

    expected = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(file), framework="pt") as tensors:
                shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}
        except (SafetensorError, OSError) as err:
            raise ModelLoadError(
                f"The weights {str(file)!r} cannot be read: {first_line(err)}.",
                hint="Download or save the model again.",
            ) from err
        for name, shape in shapes.items():
            if expected.get(name, shape) != shape:
                raise ModelLoadError(
                    f"The weights in {str(folder)!r} do not fit its config: {name!r} is {shape}, not {expected[name]}."
                )


def _quantized_bytes(weights: int, scheme: str) -> int:
    if scheme == "int8":
        return weights
    blocks = -(-weights // _BLOCK)
    return weights // 2 + blocks + blocks // 256 * 4
