"""Estimates and refusals before any weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, LlamaConfig

from llmmagic.core.errors import ModelMemoryError
from llmmagic.core.models.plan import context_window
from tests.core.models.helpers import load, plan


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 20 million weights, with a head of its own."""
    import torch
    from transformers import LlamaForCausalLM

    from llmmagic.core.models.tiny import make_tokenizer

    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        tie_word_embeddings=False,
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("small")
    LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_is_what_it_takes(small_folder: Path, quantization: str, dtype: str) -> None:
    planned = plan(small_folder, quantization=quantization, dtype=dtype)
    info = load(small_folder, quantization=quantization, dtype=dtype, dense_copy="off").info
    assert planned.memory_bytes == pytest.approx(info.memory_bytes, rel=0.03)
    assert planned.peak_bytes > planned.memory_bytes
    assert planned.estimate.parameters == info.parameters == 17_633_792


def test_too_little_memory_is_refused_with_the_figures(small_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmmagic.core.models.load.free_memory_bytes", lambda device: 50_000_000)
    with pytest.raises(ModelMemoryError) as caught:
        load(small_folder, quantization="none")
    assert "needs about 0.15 GB on cpu (none, float32); 0.05 GB are free." in str(caught.value)
    assert "quantization=nf4" in str(caught.value)
    assert caught.value.free_bytes == 50_000_000
    assert caught.value.needed_bytes == plan(small_folder, quantization="none").peak_bytes


def test_fits(small_folder: Path) -> None:
    planned = plan(small_folder)
    assert planned.fits(planned.peak_bytes)
    assert not planned.fits(planned.peak_bytes - 1)


@pytest.mark.parametrize(
    ("rope", "window"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, 4096),
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, 16384),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "rope_theta": 1e4}, 4096),
    ],
)
def test_the_context_window_of_stretched_positions(rope: dict[str, Any], window: int, tmp_path: Path) -> None:
    config = LlamaConfig(max_position_embeddings=4096, rope_parameters=rope)
    assert context_window(config, tmp_path, None) == window
    assert context_window(config, tmp_path, 1000) == 1000


def test_the_context_window_of_other_families(tmp_path: Path) -> None:
    assert context_window(AutoConfig.for_model("gpt2", n_positions=333), tmp_path, None) == 333
    unlimited = AutoConfig.for_model("mamba")
    assert context_window(unlimited, tmp_path, None) == 4096
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 2222}')
    assert context_window(unlimited, tmp_path, None) == 2222
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert context_window(unlimited, tmp_path, None) == 4096
