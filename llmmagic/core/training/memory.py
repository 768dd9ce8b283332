"""How much memory a training step will take, before the first one is taken.

Beside the weights, which are there already, a step needs (Rajbhandari et al., ZeRO, arXiv:1910.02054, section 3; the
activations after Korthikanti et al., arXiv:2205.05198, section 4, counted per module instead of for one architecture):

| what | bytes |
| --- | --- |
| gradients | one number per trained weight |
| optimiser | Adam: two numbers per trained weight; 8-bit: two bytes |
| activations | per token and decoder layer, what the backward pass reads again: each matrix's output, the inputs of the two matrices that write to the residual stream, what LoRA keeps of its inputs (a copy and a mask, with dropout), and the norms' float32 copies in half precision |
| with gradient checkpointing | per token and layer the residual stream only, and two layers' worth of the above |
| logits | TRL computes the loss in tiles of tokens and vocabulary, so that they are never there as a whole; without Triton, as on a CPU, with copies of the tile (measured: nine) |
| 4 bits | the largest matrix, unpacked |
"""  # noqa: E501 - a table has no line breaks

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import TrainingError
from llmmagic.core.events import MemoryEstimate
from llmmagic.core.training.census import MEMORY

if TYPE_CHECKING:
    import torch

_HEAP = {"cpu": 1.3}
"""What the C library's heap takes for what is allocated in it, measured on glibc; CUDA's pool wastes little."""
_TILE_COPIES = 9  # of `trl.kernels.chunked_logprob._backward_tile`, forward and backward
_ADAM_STATES = 2
_STATES_BYTES: Mapping[str, float] = {"8bit": 2.0, "sgd": 0.0, "adafactor": 0.1, "lion": 4.0, "rmsprop": 4.0}
"""Optimiser state per weight, by what its name contains; all others keep two numbers of the weight's own type."""
_SHORTEST = 64
"""Tokens: no shorter ``max_length`` is proposed."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What one forward and backward pass is over.

    Attributes:
        rows: Examples at once.
        row_tokens: Tokens of the longest.
        checkpointing: Activations are computed again in the backward pass.
    """

    rows: int
    row_tokens: int
    checkpointing: bool = False

    @property
    def tokens(self) -> int:
        """Tokens at once: every row is padded to the longest."""
        return self.rows * self.row_tokens


class StepMemory:
    """What a training step takes, for any shape of batch."""

    def __init__(self, model: Any, *, optim: str, device: str, weights_bytes: int) -> None:
        """Count the model's matrices.

        Args:
            model: With the weights that are to be trained marked as such.
            optim: Name of the optimiser, as ``TrainingArguments`` has it.
            device: Where it runs.
            weights_bytes: What the base model's weights take up.
        """
        config = model.config.get_text_config()
        self._model = model
        self._device = device
        self._weights_bytes = weights_bytes
        self._hidden = int(config.hidden_size)
        self._vocab = int(config.vocab_size)
        self._layers = int(config.num_hidden_layers)
        self._heads = int(getattr(config, "num_attention_heads", 0) or 0)
        self._eager = getattr(config, "_attn_implementation", None) == "eager"
        self._width = _compute_width(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        self._adapter_bytes = sum(p.numel() * p.element_size() for p in trained)
        self._optimizer_bytes = int(sum(p.numel() * _state_bytes(optim, p.element_size()) for p in trained))
        self._stored, self._unpacked_bytes = self._count()

    def estimate(self, shape: Shape, free_bytes: int) -> MemoryEstimate:
        """Put a plan together.

        Args:
            shape: Of a batch.
            free_bytes: What is free on the device.

        Returns:
            The plan.
        """
        return MemoryEstimate(
            device=self._device,
            weights_bytes=self._weights_bytes,
            adapter_bytes=self._adapter_bytes,
            gradient_bytes=self._adapter_bytes,
            optimizer_bytes=self._optimizer_bytes,
            activation_bytes=self._activation_bytes(shape) + self._unpacked_bytes,
            free_bytes=free_bytes,
            rows=shape.rows,
            row_tokens=shape.row_tokens,
        )

    def _activation_bytes(self, shape: Shape) -> int:
        layer = self._stored / self._layers  # per token
        if self._eager:  # scores and probabilities of each head, row by row
            layer += 2 * self._heads * shape.row_tokens * self._width
        residual = self._hidden * self._width
        kept = self._layers * (residual if shape.checkpointing else layer) + 4 * residual
        # With everything kept comes the loss; after it, going back, one layer's gradients (and itself, computed again).
        on_the_way = shape.tokens * layer * (2 if shape.checkpointing else 1)
        heap = _HEAP.get(self._device, 1.0)
        return int(heap * (shape.tokens * kept + max(self._logits_bytes(shape.tokens), on_the_way)))

    def _logits_bytes(self, tokens: int) -> int:
        """What the loss takes at once."""
        from trl.trainer import utils

        width = getattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", None)
        if width is None:  # a TRL that has the logits as a whole: themselves, in float32, and their gradient
            return tokens * self._vocab * (self._width + 2 * 4)
        from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE

        rows = min(tokens, TOKEN_CHUNK_SIZE)
        if self._device.startswith("cuda"):
            return int(rows * width * self._width)
        return int(rows * (1 + _TILE_COPIES) * min(self._vocab, width) * 4)

    def _count(self) -> tuple[float, int]:
        """Bytes per token that the layers keep for the backward pass, and of the largest unpacked 4-bit matrix."""
        stored, unpacked = 0.0, 0
        for module, adapted in _matrices(self._model):
            rows, columns = int(module.out_features), int(module.in_features)
            stored += rows * self._width
            if rows == self._hidden:
                stored += columns * self._width
            if adapted is not None:
                # In the adapter's float32: dropout keeps its own copy and a mask, else the norm's output is shared.
                stored += columns * (4 + 1 if adapted else 4 if self._width < 4 else 0)
            elif module.weight.requires_grad:
                stored += columns * self._width
            if module.weight.dtype.itemsize == 1:
                unpacked = max(unpacked, rows * columns * self._width)
        if self._width < 4:
            stored += self._layers * 2 * self._hidden * 4  # the norms compute in float32
        return stored, unpacked


def check_memory(estimate: MemoryEstimate, memory: StepMemory, shape: Shape) -> None:
    """Refuse a run that will not fit, and say what would.

    Args:
        estimate: Of the run as it is.
        memory: Estimates others.
        shape: Of the run's batches.

    Raises:
        TrainingError: It needs more than is free.
    """
    if estimate.fits:
        return
    remedy = what_fits(memory, shape, estimate.free_bytes)
    hint = f"This would fit: {remedy}." if remedy else "Load the model in nf4, or take a smaller one."
    needed, free = _size(estimate.needed_bytes), _size(estimate.free_bytes)
    raise TrainingError(
        f"A step with {shape.rows} rows of up to {shape.row_tokens:,} tokens needs about {needed} beside the weights, "
        f"and {free} are free on {estimate.device}.",
        hint=f"{hint} Or go on all the same: --allow {MEMORY}.",
    )


def what_fits(memory: StepMemory, shape: Shape, free_bytes: int) -> str:
    """The settings nearest to those of a run that would fit.

    Args:
        memory: Estimates.
        shape: Of the run's batches.
        free_bytes: What is free.

    Returns:
        Settings as they are written in the cell's body, set apart by commas; empty if nothing fits.
    """
    for tried in _smaller(shape):
        if not memory.estimate(tried, free_bytes).fits:
            continue
        settings = []
        if tried.rows != shape.rows:
            settings.append(f"per_device_train_batch_size: {tried.rows}")
            settings.append(f"gradient_accumulation_steps: {shape.rows // tried.rows} times as many")
        if tried.checkpointing != shape.checkpointing:
            settings.append("gradient_checkpointing: true")
        if tried.row_tokens != shape.row_tokens:
            settings.append(f"max_length: {tried.row_tokens}")
        return ", ".join(settings)
    return ""


def _smaller(shape: Shape) -> Iterator[Shape]:
    """Smaller shapes, the least change first: what is learnt stays the same in all but the last ones."""
    batches = [rows for rows in range(shape.rows - 1, 0, -1) if shape.rows % rows == 0]
    yield from (replace(shape, rows=rows) for rows in batches)
    checkpointed = replace(shape, checkpointing=True)
    yield checkpointed
    yield from (replace(checkpointed, rows=rows) for rows in batches)
    length = shape.row_tokens // 2 // _SHORTEST * _SHORTEST
    while length >= _SHORTEST:
        yield replace(checkpointed, rows=1, row_tokens=length)
        length = length // 2 // _SHORTEST * _SHORTEST


def _matrices(model: Any) -> Iterator[tuple[torch.nn.Linear, bool | None]]:
    """The matrices of the decoder layers, each with what LoRA does to it.

    Yields:
        The base layer, and whether its adapter has dropout; ``None`` without an adapter.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    head = model.get_output_embeddings()
    inner = {id(m.base_layer): m for m in model.modules() if isinstance(m, LoraLayer)}
    of_adapters = {
        id(part) for m in inner.values() for name in ("lora_A", "lora_B") for part in getattr(m, name).values()
    }
    for module in model.modules():
        if not isinstance(module, torch.nn.Linear) or module is head or id(module) in of_adapters:
            continue
        wrapper = inner.get(id(module))
        active = [] if wrapper is None else [name for name in wrapper.active_adapters if name in wrapper.lora_A]
        if wrapper is None or not active:
            yield module, None
        else:
            yield module, any(isinstance(wrapper.lora_dropout[name], torch.nn.Dropout) for name in active)


def _compute_width(model: Any) -> int:
    """Bytes of a number in the forward pass: that of the norms and embeddings, which are never quantised."""
    return int(model.get_input_embeddings().weight.dtype.itemsize)


def _state_bytes(optim: str, itemsize: int) -> float:
    return next((known for name, known in _STATES_BYTES.items() if name in optim), float(_ADAM_STATES * itemsize))


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
