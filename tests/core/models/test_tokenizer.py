"""Tokenizers that lack something."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmmagic.core.errors import ModelLoadError
from tests.core.models.conftest import edit_json
from tests.core.models.helpers import Recorder, load


def without_pad(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", pad_token=None)
    edit_json(folder / "config.json", pad_token_id=None)
    (folder / "generation_config.json").unlink()


def test_a_pad_token_is_chosen_that_ends_nothing(tiny_copy: Path) -> None:
    without_pad(tiny_copy)
    loaded = load(tiny_copy, quantization="none")
    assert loaded.tokenizer.pad_token == "<|pad|>"
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id == 256
    assert loaded.model.generation_config.pad_token_id == 256
    assert loaded.model.get_input_embeddings().weight.shape[0] == 259


def test_a_pad_token_that_is_the_end_token_is_replaced(tiny_copy: Path) -> None:
    without_pad(tiny_copy)
    edit_json(tiny_copy / "tokenizer_config.json", pad_token="<|im_end|>")
    assert load(tiny_copy, quantization="none").tokenizer.pad_token == "<|pad|>"


def test_llama_2_pads_with_its_unknown_token(tiny_copy: Path) -> None:
    """Its tokenizer has <unk>, <s> and </s>, and no pad token."""
    without_pad(tiny_copy)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tiny_copy / name).read_text()
        for old, new in (("<|pad|>", "<unk>"), ("<|im_start|>", "<s>"), ("<|im_end|>", "</s>")):
            text = text.replace(old, new)
        (tiny_copy / name).write_text(text)
    edit_json(tiny_copy / "tokenizer_config.json", unk_token="<unk>")
    tokenizer = load(tiny_copy, quantization="none").tokenizer
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token) == ("<unk>", "</s>", "<s>")


def test_with_no_other_token_the_end_token_pads_and_that_is_said(tiny_copy: Path) -> None:
    without_pad(tiny_copy)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tiny_copy / name).read_text().replace("<|pad|>", "<|im_other|>")
        (tiny_copy / name).write_text(text)
    events = Recorder()
    loaded = load(tiny_copy, quantization="none", emit=events)
    assert loaded.tokenizer.pad_token == "<|im_end|>"
    assert events.topics() == ["pad-token"]


def test_every_end_token_ends_a_reply(tiny_copy: Path) -> None:
    edit_json(tiny_copy / "generation_config.json", eos_token_id=[257, 65])
    assert load(tiny_copy, quantization="none").model.generation_config.eos_token_id == [65, 257, 258]


def test_a_tokenizer_without_a_limit_gets_the_models(tiny_copy: Path) -> None:
    edit_json(tiny_copy / "tokenizer_config.json", model_max_length=10**30)
    assert load(tiny_copy, quantization="none").tokenizer.model_max_length == 2048


def test_a_model_without_a_chat_template_loads(tiny_copy: Path) -> None:
    (tiny_copy / "chat_template.jinja").unlink()
    assert not load(tiny_copy, quantization="none").info.chat_template


def test_an_added_token_without_an_embedding_is_not_used_to_pad(tiny_copy: Path) -> None:
    """Copies of Llama-2 have a <pad> with the id 32000 and 32000 embeddings."""
    from llmmagic.core.models.tiny import make_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.pad_token_id == 259
    tokenizer.save_pretrained(tiny_copy)
    loaded = load(tiny_copy, quantization="none")
    assert loaded.tokenizer.pad_token_id == 256
    assert loaded.model.get_input_embeddings().weight.shape[0] == 259


def test_a_tokenizer_of_another_model_is_refused(tiny_copy: Path) -> None:
    from llmmagic.core.models.tiny import make_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|end_of_turn|>"})
    tokenizer.save_pretrained(tiny_copy)
    with pytest.raises(ModelLoadError, match="has 260 tokens, but the model has embeddings for 259 only"):
        load(tiny_copy, quantization="none")
