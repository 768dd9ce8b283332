"""From a name to weights that compute."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmmagic.core.errors import ConfigError, ModelLoadError, RemoteCodeError
from llmmagic.core.events import Event, LoadProgress
from llmmagic.core.models.load import load_model
from llmmagic.core.models.quantize import QUANTIZED
from llmmagic.core.operation import CancelledOperation, CancelToken
from tests.core.models.conftest import edit_json
from tests.core.models.helpers import IDS, Recorder, load, logits, plan


def test_tiny_random_says_what_it_is() -> None:
    loaded = load("tiny-random")
    info = loaded.info
    assert (info.model_id, info.engine, info.architecture) == ("tiny-random", "transformers", "LlamaForCausalLM")
    assert (info.layers, info.hidden_size, info.vocab_size, info.context_window) == (2, 64, 259, 2048)
    assert info.parameters == sum(p.numel() for p in loaded.model.parameters()) == 90_624
    assert (info.quantization, info.dtype, info.device) == ("none", "float32", "cpu")
    assert {choice.name for choice in info.choices} == {"device", "quantization", "dtype"}
    assert all(choice.reason for choice in info.choices)
    assert not loaded.model.training
    assert loaded.folder is not None
    assert (loaded.folder / "tokenizer.json").is_file()


def test_the_same_name_gives_the_same_weights() -> None:
    assert torch.equal(logits(load("tiny-random")), logits(load("tiny-random")))


@pytest.mark.parametrize(("scheme", "worst"), [("nf4", 0.5), ("fp4", 0.6), ("int8", 0.05)])
def test_quantised_once_then_from_the_cache(tiny_folder: Path, scheme: str, worst: float, cache: Path) -> None:
    exact = logits(load(tiny_folder, quantization="none"))
    first_events, second_events = Recorder(), Recorder()
    first = load(tiny_folder, quantization=scheme, dense_copy="off", emit=first_events)
    assert first_events.stages() == ["quantize", "save"]
    assert not first.info.from_cache
    entries = [path for path in (cache / QUANTIZED).iterdir() if path.is_dir()]
    assert len(entries) == 1
    second = load(tiny_folder, quantization=scheme, dense_copy="off", emit=second_events)
    assert second_events.stages() == ["weights"]
    assert second.info.from_cache
    assert torch.equal(logits(first), logits(second))
    assert 0 < (logits(first) - exact).abs().max() < worst
    assert first.info.memory_bytes < 90_624 * 4


def test_a_changed_model_is_quantised_again(tiny_copy: Path) -> None:
    load(tiny_copy, quantization="nf4")
    tensors = load_file(tiny_copy / "model.safetensors")
    save_file({key: value * 1.5 for key, value in tensors.items()}, tiny_copy / "model.safetensors", {"format": "pt"})
    assert not load(tiny_copy, quantization="nf4").info.from_cache


def test_a_damaged_cache_entry_is_made_again(tiny_folder: Path, cache: Path) -> None:
    before = logits(load(tiny_folder, quantization="nf4"))
    weights = next((cache / QUANTIZED).glob("*/model.safetensors"))
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    loaded = load(tiny_folder, quantization="nf4")
    assert not loaded.info.from_cache
    assert torch.equal(logits(loaded), before)


def test_no_space_for_the_cache_is_said_and_survived(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 0))
    events = Recorder()
    loaded = load(tiny_folder, quantization="nf4", emit=events)
    assert events.topics() == ["quantized-cache"]
    assert logits(loaded).isfinite().all()


@pytest.mark.parametrize("dense_copy", ["on", "off"])
def test_four_bit_layers_compute_in_float32_and_pass_gradients_after_inference(
    tiny_folder: Path, dense_copy: str
) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes would repack them at the first inference, and stop gradients."""
    loaded = load(tiny_folder, quantization="nf4", dense_copy=dense_copy)
    model = loaded.model
    embedded = model.get_input_embeddings()(IDS).detach()

    def input_gradient() -> torch.Tensor:
        inputs = embedded.clone().requires_grad_()
        model(inputs_embeds=inputs).logits.logsumexp(-1).sum().backward()
        assert inputs.grad is not None
        return inputs.grad

    before = input_gradient()
    with torch.inference_mode():
        for _ in range(2):
            model(IDS)
            model(IDS[:, :1])
    torch.testing.assert_close(input_gradient(), before)


def test_cancelling_stops_between_tensors(tiny_folder: Path) -> None:
    token = CancelToken()

    def stop_at_five(event: Event) -> None:
        if isinstance(event, LoadProgress) and event.done == 5:
            token.request()

    with pytest.raises(CancelledOperation):
        load_model(plan(tiny_folder, quantization="nf4"), emit=stop_at_five, cancel=token)
    assert not load(tiny_folder, quantization="nf4").info.from_cache


def test_the_context_window_can_be_made_smaller_only(tiny_folder: Path) -> None:
    assert load(tiny_folder, max_context=512).info.context_window == 512
    events = Recorder()
    assert load(tiny_folder, max_context=100_000, emit=events).info.context_window == 2048
    assert events.topics() == ["max-context"]


def test_a_model_that_comes_quantised_keeps_its_scheme(tiny_folder: Path, tmp_path: Path) -> None:
    first = load(tiny_folder, quantization="nf4")
    folder = tmp_path / "own"
    first.model.save_pretrained(folder)
    first.tokenizer.save_pretrained(folder)
    events = Recorder()
    own = load(folder, emit=events)
    assert (own.info.quantization, events.stages()) == ("nf4", ["weights"])
    assert torch.equal(logits(own), logits(first))
    assert own.info.parameters == 90_624
    with pytest.raises(ConfigError, match="already quantised with nf4; quantization=int8 cannot be applied"):
        load(folder, quantization="int8")
    assert load(folder, quantization="nf4").info.quantization == "nf4"


def test_a_device_that_is_not_there(tiny_folder: Path) -> None:
    if torch.cuda.device_count() < 7:
        with pytest.raises(ConfigError, match="'cuda:6' cannot be used"):
            load(tiny_folder, device="cuda:6")


def test_remote_code_is_refused_with_the_option_that_allows_it(tiny_copy: Path) -> None:
    edit_json(tiny_copy / "config.json", model_type="own_model", auto_map={"AutoConfig": "conf.OwnConfig"})
    with pytest.raises(RemoteCodeError) as caught:
        load(tiny_copy)
    assert "--trust-remote-code" in str(caught.value)
    assert "trust_remote_code=True" in str(caught.value)


def test_remote_code_runs_when_asked_for(tiny_copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    edit_json(tiny_copy / "config.json", model_type="own_model", auto_map=auto_map, architectures=["OwnModel"])
    code = """
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own_model"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
    (tiny_copy / "own.py").write_text(code)
    assert load(tiny_copy, trust_remote_code=True, quantization="none").info.architecture == "OwnModel"
    for from_cache in (False, True):
        info = load(tiny_copy, trust_remote_code=True, quantization="nf4").info
        assert (info.architecture, info.from_cache) == ("OwnModel", from_cache)


def _remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"pickle")


def _cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _drop_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _merge_what_is_not_there(folder: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = [["a", "b"]]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


BROKEN = {
    "pickle only": (_remove_weights, "no safetensors weights, only pytorch_model.bin"),
    "cut off": (_cut_weights, "cannot be read"),
    "a tensor missing": (_drop_tensor, "'model.layers.1.mlp.up_proj.weight' for instance"),
    "a shard missing": (_drop_shard, "incomplete: model-00002-of-00002.safetensors is missing"),
    "other sizes": (lambda f: edit_json(f / "config.json", intermediate_size=256), "do not fit its config"),
    "unknown type": (lambda f: edit_json(f / "config.json", model_type="nonsense"), "cannot read a 'nonsense' model"),
    "no type": (lambda f: edit_json(f / "config.json", model_type=None, architectures=None), "names no model_type"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "names no model_type"),
    "not causal": (lambda f: (f / "config.json").write_text('{"model_type": "vit"}'), "no model that continues text"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "tokenizer"),
    "impossible tokenizer": (_merge_what_is_not_there, "cannot be read: Token `ab` out of vocabulary"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer"),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_broken_folder_is_one_clear_line(tiny_copy: Path, what: str, quantization: str) -> None:
    damage, message = BROKEN[what]
    damage(tiny_copy)
    with pytest.raises(ModelLoadError) as caught:
        load(tiny_copy, quantization=quantization)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_libraries_write_nothing_while_loading(tiny_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load("tiny-random")
    load(tiny_folder, quantization="int8")
    logits(load(tiny_folder, quantization="int8"))
    assert capfd.readouterr() == ("", "")
