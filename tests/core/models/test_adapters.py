"""Adapters: on, off, several, saved, and refused where they do not belong."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmmagic.core.errors import AdapterError, ModelNotFoundError, NetworkError, StorageError
from llmmagic.core.models.adapters import attach_adapter, save_adapter, use_adapter
from llmmagic.core.models.load import LoadedModel
from llmmagic.core.models.tiny import save_tiny
from tests.core.models.conftest import edit_json
from tests.core.models.helpers import load, logits

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def add_random(loaded: LoadedModel, name: str = "medical", *, seed: int = 0, r: int = 4) -> torch.Tensor:
    """Put a new adapter with random weights on a model; returns the logits with it."""
    from peft import LoraConfig, PeftModel, get_peft_model

    settings = LoraConfig(r=r, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(loaded.model, PeftModel):
            loaded.model.add_adapter(name, settings)
        else:
            loaded.model = get_peft_model(loaded.model, settings, adapter_name=name)
    use_adapter(loaded, name)
    return logits(loaded)


@pytest.fixture
def saved(tiny_folder: Path, tmp_path: Path) -> Path:
    loaded = load(tiny_folder, quantization="none")
    add_random(loaded)
    return save_adapter(loaded, tmp_path / "saved")


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_saved_and_loaded_by_its_own_folder_gives_the_same_logits(
    tiny_folder: Path, tmp_path: Path, quantization: str
) -> None:
    loaded = load(tiny_folder, quantization=quantization)
    bare = logits(loaded)
    expected = add_random(loaded)
    assert (expected - bare).abs().max() > 0.1
    folder = save_adapter(loaded, tmp_path / "medical")
    again = load(folder, quantization=quantization)
    assert (logits(again) - expected).abs().max() <= 1e-3
    assert (again.info.adapter, again.info.adapters) == ("medical", ("medical",))
    assert again.folder == tiny_folder
    assert not any(weight.requires_grad for weight in again.model.parameters())
    on_top = load(tiny_folder, quantization=quantization, adapter=str(folder))
    assert torch.equal(logits(on_top), logits(again))


def test_tiny_random_is_found_again_by_its_name(tmp_path: Path) -> None:
    loaded = load("tiny-random")
    expected = add_random(loaded)
    folder = save_adapter(loaded, tmp_path / "a")
    assert json.loads((folder / "llmmagic.json").read_text())["base"] == "tiny-random"
    assert torch.equal(logits(load(folder, quantization="none")), expected)


def test_lora_weights_are_float32_on_a_bfloat16_model(tiny_folder: Path, saved: Path) -> None:
    loaded = load(tiny_folder, quantization="nf4", dtype="bfloat16", adapter=str(saved))
    lora = {weight.dtype for name, weight in loaded.model.named_parameters() if "lora_" in name}
    assert lora == {torch.float32}


def test_several_adapters_and_the_bare_model(tiny_folder: Path, saved: Path) -> None:
    loaded = load(tiny_folder, quantization="none")
    bare = logits(loaded)
    first = add_random(loaded, "first", seed=1)
    second = add_random(loaded, "second", seed=2, r=8)
    assert attach_adapter(loaded, saved) == "saved"
    third = logits(loaded)
    assert loaded.info.adapters == ("first", "second", "saved")
    for name, expected in (("second", second), (None, bare), ("saved", third), ("first", first), (None, bare)):
        use_adapter(loaded, name)
        assert loaded.info.adapter == name
        assert torch.equal(logits(loaded), expected)
    assert not any(weight.requires_grad for weight in loaded.model.parameters())


def test_a_named_one_of_several_is_saved(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load(tiny_folder, quantization="none")
    first = add_random(loaded, "first", seed=1)
    add_random(loaded, "second", seed=2)
    folder = save_adapter(loaded, tmp_path / "a", name="first")
    assert torch.equal(logits(load(folder, quantization="none")), first)
    with pytest.raises(AdapterError, match=r"no adapter 'third'. Loaded: first, second"):
        save_adapter(loaded, tmp_path / "a", name="third")
    use_adapter(loaded, None)
    with pytest.raises(AdapterError, match="There is no adapter to save"):
        save_adapter(loaded, tmp_path / "a")


def test_attaching_the_same_folder_again_reads_it_again(tiny_folder: Path, saved: Path) -> None:
    loaded = load(tiny_folder, quantization="none")
    bare = logits(loaded)
    attach_adapter(loaded, saved)
    first = logits(loaded)
    tensors = load_file(saved / "adapter_model.safetensors")
    save_file({k: v * 2 for k, v in tensors.items()}, saved / "adapter_model.safetensors", {"format": "pt"})
    attach_adapter(loaded, saved)
    assert loaded.info.adapters == ("saved",)
    assert (logits(loaded) - bare).abs().max() > (first - bare).abs().max() * 1.5
    use_adapter(loaded, None)
    assert torch.equal(logits(loaded), bare)


def test_a_name_that_is_taken_by_another(tiny_folder: Path, saved: Path) -> None:
    loaded = load(tiny_folder, quantization="none")
    expected = add_random(loaded, "saved", seed=5)
    with pytest.raises(AdapterError, match="an adapter named 'saved' already"):
        attach_adapter(loaded, saved)
    assert torch.equal(logits(loaded), expected)
    assert attach_adapter(loaded, saved, name="other") == "other"


def test_an_adapter_of_another_base_is_refused_and_nothing_changes(saved: Path, tmp_path: Path) -> None:
    """Same shapes, other weights: only the name and the fingerprint tell."""
    other = save_tiny(tmp_path / "other", seed=1)
    loaded = load(other, quantization="none")
    before, info = logits(loaded), loaded.info
    with pytest.raises(AdapterError) as caught:
        attach_adapter(loaded, saved)
    assert "'saved' was made on" in str(caught.value)
    assert f"not on {other}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert torch.equal(logits(loaded), before)
    assert loaded.info == info


def test_a_base_that_was_moved_is_recognised(saved: Path, tiny_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_folder, tmp_path / "moved")
    assert attach_adapter(load(moved, quantization="none"), saved) == "saved"


def test_a_base_that_changed_in_its_place_is_refused(tiny_copy: Path, tmp_path: Path) -> None:
    loaded = load(tiny_copy, quantization="none")
    add_random(loaded)
    folder = save_adapter(loaded, tmp_path / "a")
    save_tiny(tiny_copy, seed=7)
    with pytest.raises(AdapterError, match="was made on"):
        load(folder, quantization="none")


def test_an_adapter_of_another_program_is_judged_by_name_and_shape(saved: Path, tiny_folder: Path) -> None:
    (saved / "llmmagic.json").unlink()
    loaded = load(tiny_folder, quantization="none")
    assert attach_adapter(loaded, saved, name="same") == "same"
    edit_json(saved / "adapter_config.json", base_model_name_or_path="/gone/from/here")
    assert attach_adapter(loaded, saved, name="shapes-fit") == "shapes-fit"
    edit_json(saved / "adapter_config.json", base_model_name_or_path="org/another-model")
    with pytest.raises(AdapterError, match="'saved' was made on org/another-model, not on"):
        attach_adapter(loaded, saved, name="other")
    edit_json(saved / "adapter_config.json", base_model_name_or_path=None)
    assert attach_adapter(loaded, saved, name="says-nothing") == "says-nothing"


def test_sizes_that_do_not_fit(saved: Path, tiny_folder: Path) -> None:
    (saved / "llmmagic.json").unlink()
    edit_json(saved / "adapter_config.json", base_model_name_or_path=None)
    tensors = load_file(saved / "adapter_model.safetensors")
    key = next(key for key in tensors if key.endswith("lora_A.weight"))
    save_file({**tensors, key: torch.zeros(4, 99)}, saved / "adapter_model.safetensors", {"format": "pt"})
    loaded = load(tiny_folder, quantization="none")
    before = logits(loaded)
    with pytest.raises(AdapterError, match=r"has size \d+ here and 99 in its base"):
        attach_adapter(loaded, saved)
    save_file({key.replace("layers.", "blocks."): torch.zeros(4, 64)}, saved / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="which this model does not have"):
        attach_adapter(loaded, saved)
    assert torch.equal(logits(loaded), before)


def test_a_failure_inside_peft_leaves_the_model_as_it_was(saved: Path, tiny_folder: Path) -> None:
    loaded = load(tiny_folder, quantization="none")
    before = logits(loaded)
    edit_json(saved / "adapter_config.json", r=16)
    with pytest.raises(AdapterError, match="cannot be put on the model"):
        attach_adapter(loaded, saved)
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert (loaded.info.adapter, loaded.info.adapters) == (None, ())
    assert torch.equal(logits(loaded), before)
    assert not any("lora" in name for name, _ in loaded.model.named_modules())
    first = add_random(loaded, "first")
    with pytest.raises(AdapterError, match="cannot be put on the model"):
        attach_adapter(loaded, saved)
    assert (loaded.info.adapter, loaded.info.adapters) == ("first", ("first",))
    assert torch.equal(logits(loaded), first)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 20), "cannot be read"),
    ],
)
def test_a_broken_adapter_is_one_clear_line(saved: Path, tiny_folder: Path, damage, message: str) -> None:
    damage(saved)
    with pytest.raises(AdapterError) as caught:
        load(tiny_folder, quantization="none", adapter=str(saved))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_base_that_is_not_here(saved: Path, tiny_folder: Path) -> None:
    edit_json(saved / "llmmagic.json", base="/gone/from/here")
    with pytest.raises(ModelNotFoundError, match=r"base of the adapter .* is missing.*MODEL --adapter"):
        load(saved)
    edit_json(saved / "llmmagic.json", base="org/not-fetched")
    with pytest.raises(NetworkError, match=r"base of the adapter .* is missing"):
        load(saved)
    edit_json(saved / "llmmagic.json", base=None)
    edit_json(saved / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(AdapterError, match="does not say which model it is for"):
        load(saved)


def test_what_is_no_adapter(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is a model, not an adapter"):
        load(tiny_folder, adapter=str(tiny_folder))
    with pytest.raises(ModelNotFoundError):
        load(tiny_folder, adapter=str(tmp_path / "none"))
    loaded = load(tiny_folder, quantization="none")
    with pytest.raises(AdapterError, match=r"no adapter 'x'\. None is loaded"):
        use_adapter(loaded, "x")
    with pytest.raises(AdapterError, match="Train one first"):
        save_adapter(loaded, tmp_path / "a")


def test_a_folder_that_cannot_be_written(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = load(tiny_folder, quantization="none")
    add_random(loaded)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        save_adapter(loaded, tmp_path / "file" / "adapter")


def test_the_hub_id_and_commit_of_the_base_are_recorded(tiny_folder: Path, tmp_path: Path) -> None:
    loaded = replace(load(tiny_folder, quantization="none"), base_id="org/base", base_revision="abc")
    add_random(loaded)
    folder = save_adapter(loaded, tmp_path / "a")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "abc")
    assert json.loads((folder / "llmmagic.json").read_text())["revision"] == "abc"
    with pytest.raises(AdapterError, match="was made on org/base"):
        attach_adapter(replace(loaded, base_id="org/other", folder=None), folder, name="b")
