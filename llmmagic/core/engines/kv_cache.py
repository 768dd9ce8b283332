"""The KV cache that lives from turn to turn, and always knows which tokens it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from typing_extensions import override

_BLOCK_TOKENS = 256


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped for mypy
    """Keys and values of one layer in a buffer with room to spare.

    The library's own layer copies all keys and values for every new token. Here a token is written in place, and only
    when the room is used up a larger buffer is taken.

    Shapes: ``keys`` and ``values`` are views (B, H, T, D) of buffers (B, H, room, D).
    """

    keys: Any  # tensors once there are any; declared here for the type checker
    values: Any
    is_initialized: bool

    def __init__(self) -> None:
        super().__init__()
        self._room_keys: torch.Tensor | None = None
        self._room_values: torch.Tensor | None = None

    @override
    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values (B, H, t, D).

        Returns:
            All keys and all values so far, (B, H, T + t, D).
        """
        start = self.keys.shape[-2] if self.is_initialized else 0
        end = start + key_states.shape[-2]
        if self._room_keys is None or self._room_values is None or end > self._room_keys.shape[-2]:
            self._room_keys = _grown(self.keys if self.is_initialized else None, key_states, end)
            self._room_values = _grown(self.values if self.is_initialized else None, value_states, end)
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        self._room_keys[:, :, start:end] = key_states
        self._room_values[:, :, start:end] = value_states
        self.keys = self._room_keys[:, :, :end]
        self.values = self._room_values[:, :, :end]
        return self.keys, self.values


def _grown(old: torch.Tensor | None, new: torch.Tensor, tokens: int) -> torch.Tensor:
    """A buffer for ``tokens`` tokens and a quarter more, with the old ones in it."""
    room = -(-(tokens + tokens // 4) // _BLOCK_TOKENS) * _BLOCK_TOKENS
    buffer = new.new_empty((*new.shape[:-2], room, new.shape[-1]))
    if old is not None:
        buffer[:, :, : old.shape[-2]] = old
    return buffer


class KVCache:
    """Keys and values of one sequence, with the token ids they were computed from.

    What can be kept of them depends on the model's layers. Full attention can be cut anywhere. A sliding window that is
    full can only go on, as what fell out of it is gone. A recurrent state (Mamba, linear attention) has no positions to
    cut at, so it is computed anew for each prompt and read in one piece.

    Attributes:
        token_ids: What is in the cache, in order.
        past_key_values: What the model is called with.
        extensible: Whether the cache can outlive a prompt and be filled in chunks.
    """

    def __init__(self, model_config: Any) -> None:
        """Make an empty cache.

        Args:
            model_config: The model's ``PreTrainedConfig``.
        """
        self._model_config = model_config
        self.token_ids: list[int] = []
        self.past_key_values = self._fresh()
        kinds = {type(layer) for layer in self.past_key_values.layers}
        # `layers` is empty where the library takes them for plain attention only when they are first used.
        self.extensible = all(kind in (GrowingLayer, DynamicSlidingWindowLayer) for kind in kinds)

    def _fresh(self) -> Any:
        cache = DynamicCache(config=self._model_config)
        # Subclasses of DynamicLayer hold more than keys and values and stay what they are.
        cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        return cache

    def reset(self) -> None:
        """Forget everything and free the memory."""
        self.token_ids = []
        self.past_key_values = self._fresh()

    def keep_prefix_of(self, prompt_ids: Sequence[int]) -> int:
        """Cut the cache down to what it has in common with a prompt.

        Args:
            prompt_ids: (T,) with T >= 1.

        Returns:
            How many tokens are kept: at most T - 1, as the last one must be fed to get logits. A cache that held the
            whole prompt would have nothing to compute.
        """
        kept = min(self.common_prefix(prompt_ids), len(prompt_ids) - 1)
        removed = len(self.token_ids) - kept
        if not self.extensible or (removed and not self.croppable):
            kept = 0
        if kept == 0:
            self.reset()
        elif removed:
            self.cut(removed)
        return kept

    def cut(self, count: int) -> None:
        """Take the last tokens out.

        Args:
            count: 1 at least; the cache must be `croppable`.
        """
        # Negative means "remove that many"; a positive argument is refused by newer releases of the library.
        self.past_key_values.crop(-count)
        del self.token_ids[-count:]

    def common_prefix(self, prompt_ids: Sequence[int]) -> int:
        """How many tokens at the beginning of a prompt (T,) the cache holds too."""
        limit = min(len(self.token_ids), len(prompt_ids))
        return next((i for i in range(limit) if self.token_ids[i] != prompt_ids[i]), limit)

    @property
    def bytes_per_token(self) -> int:
        """Memory of the keys and values of one token in all layers; 0 while nothing is in the cache."""
        layers = [layer for layer in self.past_key_values.layers if getattr(layer, "is_initialized", False)]
        held = sum(x.nbytes for layer in layers for x in (layer.keys, layer.values))
        return held // len(self) if self.token_ids else 0

    @property
    def croppable(self) -> bool:
        """Whether the last tokens can be taken out again."""
        return all(
            type(layer) is GrowingLayer
            or (type(layer) is DynamicSlidingWindowLayer and layer.get_seq_length() < layer.sliding_window)
            for layer in self.past_key_values.layers
        )

    @property
    def stays_croppable(self) -> bool:
        """Whether the last tokens can be taken out again, however many more come."""
        return all(type(layer) is GrowingLayer for layer in self.past_key_values.layers)

    def __len__(self) -> int:
        """Tokens in the cache."""
        return len(self.token_ids)
