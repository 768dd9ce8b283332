"""4-bit layers that keep a dequantised copy of their weights, where a CPU has no fast 4-bit kernel.

Without one, bitsandbytes unpacks a layer's weights at every call, which takes most of the time of every token and every
training step. The copy is what it would unpack to, so the numbers are the same to the bit; the 4-bit weights stay what
is trained on top of, saved and counted by PEFT. A layer makes its copy when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch
from torch.nn import functional
from typing_extensions import override

from llmmagic.core.events import Choice

if TYPE_CHECKING:
    from llmmagic.core.config import DenseCopy

_SHARE = 0.5
"""Of the free memory, at most this much goes into copies: a KV cache or a training comes on top."""


class DenseLinear4bit(bnb.nn.Linear4bit):  # type: ignore[misc]  # bitsandbytes is not typed
    """A 4-bit layer with a dequantised copy."""

    @override
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., in_features), of any float type. Returns (..., out_features), of the same type."""
        if x.device.type != "cpu":
            moved: torch.Tensor = super().forward(x)
            return moved
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        return functional.linear(x.to(self.compute_dtype), self._dense(), bias).to(x.dtype)

    def _dense(self) -> torch.Tensor:
        """The weights (out_features, in_features) in the compute dtype."""
        # Not an attribute of the module: the copy is no weight, and must not be saved, moved or counted as one.
        kept: tuple[Any, torch.Tensor] | None = self.__dict__.get("_kept")
        if kept is None or kept[0] is not self.weight:  # merging an adapter puts other weights in place
            # A tensor made in inference mode could never be part of a training step.
            with torch.inference_mode(mode=False), torch.no_grad():
                dense = bnb.functional.dequantize_4bit(self.weight.data, self.weight.quant_state)
                kept = self.weight, dense.to(self.compute_dtype)
            self.__dict__["_kept"] = kept
        return kept[1]


def keep_dense_copies(model: torch.nn.Module, wanted: DenseCopy, *, free_bytes: int) -> tuple[tuple[Choice, ...], int]:
    """Let the 4-bit layers of a model on a CPU keep dequantised copies, if memory allows.

    Args:
        model: Just loaded, with settled layers.
        wanted: ``auto`` goes by free memory.
        free_bytes: What is free now.

    Returns:
        What ``auto`` decided, and the bytes that the copies will take.
    """
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    needed = sum(layer.in_features * layer.out_features * layer.compute_dtype.itemsize for layer in layers)
    fits = needed <= _SHARE * free_bytes
    use = fits if wanted == "auto" else wanted == "on"
    if use:
        for layer in layers:
            layer.__class__ = DenseLinear4bit
    taken = needed if use else 0
    if wanted != "auto":
        return (), taken
    size = f"{needed / 2**20:,.0f} MB"
    if use:
        reason = f"{size} more for the same numbers several times faster: no fast 4-bit kernel on this CPU"
        return (Choice("dense copy", "on", reason),), taken
    return (Choice("dense copy", "off", f"it would take {size}, more than half of the free memory"),), taken
