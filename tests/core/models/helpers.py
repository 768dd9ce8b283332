"""Short ways to load, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmmagic.core.config import LoadConfig
from llmmagic.core.events import Event, LoadProgress, Notice
from llmmagic.core.models.load import LoadedModel, LoadPlan, load_model, prepare
from llmmagic.core.operation import CancelToken

IDS = torch.arange(24)[None] + 30
"""Some token ids that every tiny model knows: (1, 24)."""


class Recorder(list[Event]):
    """Collects events."""

    def __call__(self, event: Event) -> None:
        self.append(event)

    def stages(self) -> list[str]:
        """The bars that were shown, in order."""
        return list(dict.fromkeys(event.stage for event in self if isinstance(event, LoadProgress)))

    def topics(self) -> list[str]:
        """What was noticed."""
        return [event.topic for event in self if isinstance(event, Notice)]


def plan(model_id: str | Path, *, emit: Recorder | None = None, **settings: Any) -> LoadPlan:
    config = LoadConfig(model_id=str(model_id), **settings)
    return prepare(config, emit=Recorder() if emit is None else emit, cancel=CancelToken())


def load(model_id: str | Path, *, emit: Recorder | None = None, **settings: Any) -> LoadedModel:
    emit = Recorder() if emit is None else emit
    return load_model(plan(model_id, emit=emit, **settings), emit=emit, cancel=CancelToken())


def logits(loaded: LoadedModel) -> torch.Tensor:
    """(1, 24, V) of some fixed input."""
    with torch.inference_mode():
        return loaded.model(IDS.to(loaded.model.device)).logits.float()
