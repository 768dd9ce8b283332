"""Sampling settings without gaps: what the user asked for, else what the model advises, else our defaults."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmmagic.core.config import GenerationConfig

DEFAULT_TEMPERATURE = 0.7
DEFAULT_TOP_P = 0.95


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings with every ``None`` filled in; see `GenerationConfig` for what each means."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken and no randomness is involved."""
        return self.temperature == 0


def resolve_sampling(config: GenerationConfig, model_config: Any | None = None) -> Sampling:
    """Fill in what the user left open.

    Args:
        config: What the user asked for.
        model_config: The model's ``transformers.GenerationConfig``. It counts only where it samples: a greedy one says
            nothing about temperature, and ``temperature=1.0`` in it is a library default, not advice.

    Returns:
        Settings without gaps.
    """
    advice = model_config if getattr(model_config, "do_sample", False) else None

    def pick(name: str, default: float) -> float:
        for source in (config, advice):
            value = getattr(source, name, None)
            if value is not None:
                return float(value)
        return default

    return Sampling(
        temperature=pick("temperature", DEFAULT_TEMPERATURE),
        top_k=int(pick("top_k", 0)),
        top_p=pick("top_p", DEFAULT_TOP_P),
        min_p=pick("min_p", 0.0),
        repetition_penalty=pick("repetition_penalty", 1.0),
    )
