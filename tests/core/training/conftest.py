"""Loaded tiny models, and data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmmagic.core.config import LoadConfig
from llmmagic.core.events import Event, ModelInfo
from llmmagic.core.models.loaded import LoadedModel

Load = Callable[..., LoadedModel]


def load_folder(folder: Path) -> LoadedModel:
    """A model as a session would have loaded it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = model.config
    info = ModelInfo(
        model_id=str(folder),
        revision=None,
        engine="transformers",
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        quantization="none",
        dtype="float32",
        device="cpu",
        context_window=config.max_position_embeddings,
        memory_bytes=model.get_memory_footprint(),
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return LoadedModel(model, tokenizer, info, LoadConfig(model_id=str(folder)), folder, str(folder))


@pytest.fixture(scope="session")
def load() -> Load:
    """Loads a folder afresh: a test may change the model."""
    return load_folder


@pytest.fixture
def tiny(load: Load, tiny_folder: Path) -> LoadedModel:
    return load(tiny_folder)


@pytest.fixture
def llama2(load: Load, llama2_folder: Path) -> LoadedModel:
    return load(llama2_folder)


class Events(list[Event]):
    """Collects what an operation emits."""

    def of(self, kind: type) -> list[Event]:
        return [event for event in self if isinstance(event, kind)]


@pytest.fixture
def events() -> Events:
    return Events()
