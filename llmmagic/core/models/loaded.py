"""The one holder of the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llmmagic.core.config import LoadConfig
from llmmagic.core.events import ModelInfo

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class LoadedModel:
    """A model in memory; session, engine and training share it.

    Attributes:
        model: The base model, or the `PeftModel` around it once there is an adapter.
        tokenizer: Of the model.
        info: What is loaded; replaced when adapters change.
        config: What was asked for.
        folder: Transformers folder of the base model: its config, its tokenizer and its full weights.
        base_id: A name that finds the base again from anywhere; recorded in adapters.
        base_revision: Its version on the Hub, if it is from there.
        sources: From which folder each adapter was loaded, by its name.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    info: ModelInfo
    config: LoadConfig
    folder: Path | None
    base_id: str = ""
    base_revision: str | None = None
    sources: dict[str, Path] = field(default_factory=dict)
