"""GGUF files through Transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from tokenizers import pre_tokenizers

from llmmagic.core.errors import ModelLoadError, ModelMemoryError
from llmmagic.core.models.gguf import CONVERTED
from llmmagic.core.models.tiny import CHATML_TEMPLATE, CONTEXT_WINDOW, END, PAD, START, make_model, make_tokenizer
from tests.core.models.helpers import IDS, Recorder, load, plan

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(file: Path, *, quantize: bool, pre: str = "smollm", skip: str = "") -> Path:
    """Write the tiny model as llama.cpp's converter would: float32, or matrices in Q8_0."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    config = model.config
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(CONTEXT_WINDOW)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in vocab])
    writer.add_token_types([3 if token in (PAD, START, END) else 1 for token, _ in vocab])
    writer.add_token_scores([0.0] * len(vocab))  # in place of merges, of which there are none
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(CHATML_TEMPLATE)
    for key, weight in model.state_dict().items():
        name = _gguf_name(key)
        if name is None or (skip and skip in name):
            continue
        values = weight.numpy()
        if "attn_q" in name or "attn_k" in name:
            heads = config.num_attention_heads if "attn_q" in name else config.num_key_value_heads
            values = _permute(values, heads)
        if quantize and values.ndim == 2:
            q8 = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quants.quantize(values, q8), raw_dtype=q8)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _gguf_name(key: str) -> str | None:
    if key == "model.embed_tokens.weight":
        return "token_embd.weight"
    if key == "model.norm.weight":
        return "output_norm.weight"
    if not key.startswith("model.layers."):
        return None  # the head is the embedding
    number, _, rest = key.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_NAMES[rest.removesuffix('.weight')]}.weight"


def _permute(values: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp pairs rotary dimensions differently (convert_hf_to_gguf.py, LlamaModel.permute)."""
    split = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(values.shape))


def test_converted_once_to_the_same_model(tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tmp_path / "tiny model.gguf", quantize=False)
    events = Recorder()
    loaded = load(file, quantization="none", emit=events)
    assert events.stages() == ["convert", "save", "weights"]
    assert loaded.info.context_window == 2048
    with torch.inference_mode():
        expected = make_model(make_tokenizer())(IDS).logits
        torch.testing.assert_close(loaded.model(IDS).logits, expected, atol=1e-5, rtol=1e-5)
    again = Recorder()
    load(file, quantization="none", emit=again)
    assert again.stages() == ["weights"]
    assert len([path for path in (cache / CONVERTED).iterdir() if path.is_dir()]) == 1


def test_blocks_are_unpacked_and_can_be_quantised_again(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "q8.gguf", quantize=True)
    loaded = load(file, quantization="none")
    with torch.inference_mode():
        expected = make_model(make_tokenizer())(IDS).logits
        assert 0 < (loaded.model(IDS).logits - expected).abs().max() < 0.05
    assert load(file).info.quantization == "nf4"


def test_tokenizer_and_template_are_those_of_the_file(tmp_path: Path) -> None:
    tokenizer = load(write_gguf(tmp_path / "x.gguf", quantize=True), quantization="none").tokenizer
    original = make_tokenizer()
    messages = [{"role": "user", "content": "Take 12 mg, Änna 🙂"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == original.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.model_max_length) == (PAD, END, 2048)


@pytest.mark.parametrize(("pre", "digits"), [("smollm", True), ("gpt-2", False)])
def test_digits_are_split_where_the_vocabulary_was_learned_so(tmp_path: Path, pre: str, digits: bool) -> None:
    tokenizer = load(write_gguf(tmp_path / "x.gguf", quantize=True, pre=pre), quantization="none").tokenizer
    pieces = [piece for piece, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("ab  12")]
    assert pieces == (["ab", "ĠĠ", "1", "2"] if digits else ["ab", "Ġ", "Ġ12"])
    assert isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.Sequence) is digits


def test_what_is_no_gguf_file_or_a_damaged_one(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"something else")
    with pytest.raises(ModelLoadError, match="is no GGUF file"):
        plan(tmp_path / "a.gguf")
    content = write_gguf(tmp_path / "b.gguf", quantize=True).read_bytes()
    (tmp_path / "b.gguf").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelLoadError, match="is damaged"):
        plan(tmp_path / "b.gguf")


def test_one_part_of_several(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "x-00001-of-00002.gguf", quantize=True, skip="blk.1.ffn_up")
    with pytest.raises(ModelLoadError, match=r"lacks weights.*one part of several"):
        plan(file)


def test_too_large_to_be_unpacked_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmmagic.core.models.gguf.free_memory_bytes", lambda: 100_000)
    with pytest.raises(ModelMemoryError, match=r"takes 0\.00 GB of memory"):
        plan(write_gguf(tmp_path / "x.gguf", quantize=True))
