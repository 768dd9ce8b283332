"""What a run changes: an adapter, or all weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmmagic.core.events import Notice
from llmmagic.core.models.names import TINY_RANDOM

if TYPE_CHECKING:
    import torch

    from llmmagic.core.config import TrainConfig
    from llmmagic.core.models.loaded import LoadedModel


class Trainable(Protocol):
    """Weights that are lent to a trainer, and kept or put back afterwards."""

    @property
    def loaded(self) -> LoadedModel:
        """The session's model."""

    @property
    def name(self) -> str:
        """Of the adapter, or of the new model."""

    @property
    def continued(self) -> bool:
        """Whether it was trained before and goes on."""

    @property
    def model(self) -> Any:
        """What the trainer gets."""

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The weights that change."""

    def settings(self) -> dict[str, str]:
        """What it is like, for people."""

    def commit(self) -> None:
        """Keep what was learnt."""

    def rollback(self) -> None:
        """Put the session's model back to what it was."""

    def save(self, folder: Path, emit: Callable[[Notice], None], *, resumed: bool) -> None:
        """Write it to a disk."""


def trains_all(loaded: LoadedModel, config: TrainConfig) -> bool:
    """Whether a run changes all weights, not those of an adapter.

    Args:
        loaded: The session's model.
        config: Of the run.
    """
    if config.peft != "auto":
        return config.peft == "none"
    # An adapter on random weights would learn next to nothing.
    random = loaded.info.model_id == TINY_RANDOM and not loaded.info.adapters
    return config.method == "pretrain" and (bool(config.model_config) or random)


def plain_setting(value: Any) -> str:
    """The value of a setting, for people."""
    if isinstance(value, (set, frozenset)):
        return ", ".join(sorted(map(str, value)))
    return str(getattr(value, "value", value))
