"""The tiny model as an engine gets it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmmagic.core.engines.transformers import TransformersEngine
from llmmagic.core.models.tiny import make_model, make_tokenizer


def as_loaded(model: Any, tokenizer: Any, *, context_window: int = 2048) -> Any:
    """What an engine reads of a `LoadedModel`, around any model."""
    vocab_size = model.config.get_text_config().vocab_size
    info = SimpleNamespace(context_window=context_window, vocab_size=vocab_size, adapter=None)
    return SimpleNamespace(model=model, tokenizer=tokenizer, info=info)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer: Any) -> Any:
    return make_model(tokenizer)


@pytest.fixture
def engine(model: Any, tokenizer: Any) -> TransformersEngine:
    """A fresh engine (empty cache) over the shared tiny model."""
    return TransformersEngine(as_loaded(model, tokenizer))
