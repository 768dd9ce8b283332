"""Models converted for llama.cpp by the real converter: adapters merged in, compared with the original, made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import GenerationConfig, LoadConfig
from llmmagic.core.engines import gguf_convert
from llmmagic.core.engines.gguf_convert import choose_type, convert_once, measure
from llmmagic.core.engines.gguf_file import find_gguf
from llmmagic.core.engines.llama_cpp import LlamaCppEngine
from llmmagic.core.engines.llama_cpp_loader import open_llama_cpp
from llmmagic.core.engines.opened import open_engine, open_for_chat
from llmmagic.core.engines.parity import parity_notices
from llmmagic.core.engines.transformers import TransformersEngine
from llmmagic.core.errors import ConfigError, ModelLoadError
from llmmagic.core.events import GenerationFinished, LoadEvent, LoadProgress, Notice, Parity
from llmmagic.core.export.reference import held_out_tokens, take_reference
from llmmagic.core.export.requantize import requantize
from llmmagic.core.export.source import ExportSource, fingerprint_adapter
from llmmagic.core.operation import CancelledOperation, CancelToken
from tests.core.engines.conftest import as_loaded
from tests.core.engines.tiny_gguf import write_tiny_gguf

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT asks

GREEDY = GenerationConfig(max_new_tokens=16, temperature=0)
PROMPT = list(b"What is Bursitis?")


def nothing(_event: object) -> None:
    return


def no_job(*args: object, **options: object) -> None:
    raise AssertionError("a conversion was started")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache for the tests of this module: what one has converted, others find."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMMAGIC_CACHE_DIR", str(folder))
        yield folder


def save_adapter(folder: Path, base: Path, *, seed: int = 0) -> Path:
    """An adapter with random weights, strong enough to change every reply."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapter") / "medical", tiny_folder)


@pytest.fixture(scope="module")
def with_adapter(tiny_folder: Path, adapter: Path) -> tuple[LoadConfig, list[LoadEvent]]:
    """Converted once: the config that loads it, and what was said."""
    config = LoadConfig(model_id=str(tiny_folder), adapter=str(adapter), engine="llama.cpp")
    events: list[LoadEvent] = []
    find_gguf(config, emit=events.append, cancel=CancelToken())
    return config, events


def first_token(engine: Any) -> tuple[int, ...]:
    *_, last = engine.generate(PROMPT, GREEDY, CancelToken())
    assert isinstance(last, GenerationFinished)
    return last.token_ids[:1]


def test_an_adapter_is_merged_in_converted_and_compared(
    with_adapter: tuple[LoadConfig, list[LoadEvent]], tiny_folder: Path
) -> None:
    config, events = with_adapter
    stages = list(dict.fromkeys(event.stage for event in events if isinstance(event, LoadProgress)))
    assert stages == ["weights", "adapter", "save", "convert", "check"]
    opened = open_llama_cpp(config, emit=nothing, cancel=CancelToken())
    assert (opened.info.adapter, opened.info.quantization) == ("medical", "q8_0")
    assert opened.info.parity is not None
    assert opened.info.parity.acceptable
    assert opened.info.parity.tokens > 200
    assert opened.info.parity.agreement > 0.95
    assert opened.info.parity.mean_difference < 0.02
    tuned = open_engine(replace(config, engine="transformers", quantization="none"), worker=False, emit=nothing,
                        cancel=CancelToken())  # fmt: skip
    bare = open_engine(LoadConfig(model_id=str(tiny_folder), quantization="none"), worker=False, emit=nothing,
                       cancel=CancelToken())  # fmt: skip
    with torch.inference_mode():
        ids = torch.tensor([PROMPT])
        wanted = torch.log_softmax(tuned.loaded.model(ids).logits[0, -1], dim=-1)  # type: ignore[union-attr]
        other = torch.log_softmax(bare.loaded.model(ids).logits[0, -1], dim=-1)  # type: ignore[union-attr]
    assert isinstance(opened.engine, LlamaCppEngine)
    told = opened.engine.next_tokens(PROMPT, 20)
    assert max(abs(logprob - float(wanted[token_id])) for token_id, logprob in told) < 0.05
    assert max(abs(logprob - float(other[token_id])) for token_id, logprob in told) > 0.1
    opened.engine.close()


def test_the_same_weights_are_never_converted_twice(
    with_adapter: tuple[LoadConfig, list[LoadEvent]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = with_adapter
    monkeypatch.setattr(gguf_convert, "run_job", no_job)
    assert config.adapter is not None
    copy = Path(shutil.copytree(config.adapter, tmp_path / "copy"))
    again = find_gguf(replace(config, adapter=str(copy)), emit=nothing, cancel=CancelToken())
    assert (again.converted, again.adapter) == (True, "copy")
    assert again.parity is not None


def test_a_changed_adapter_has_another_name_and_an_equal_one_the_same(adapter: Path, tmp_path: Path) -> None:
    name = fingerprint_adapter(adapter)
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    config = json.loads((copy / "adapter_config.json").read_text())
    config["target_modules"].reverse()
    config["base_model_name_or_path"] = "elsewhere"
    (copy / "adapter_config.json").write_text(json.dumps(config))
    assert fingerprint_adapter(copy) == name
    weights = load_file(copy / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] += 0.5
    save_file(weights, copy / "adapter_model.safetensors")
    assert fingerprint_adapter(copy) != name
    config["lora_alpha"] *= 2
    (adapter.parent / "scaled").mkdir()
    shutil.copyfile(adapter / "adapter_model.safetensors", adapter.parent / "scaled" / "adapter_model.safetensors")
    (adapter.parent / "scaled" / "adapter_config.json").write_text(json.dumps(config))
    assert fingerprint_adapter(adapter.parent / "scaled") != name


@pytest.fixture(scope="module")
def source(tiny_folder: Path) -> ExportSource:
    return ExportSource("tiny", str(tiny_folder), None, tiny_folder, "key")


@pytest.fixture(scope="module")
def reference(model: Any, tokenizer: Any) -> list[dict[str, Any]]:
    texts = held_out_tokens(ChatTemplate.from_tokenizer(tokenizer))
    taken = take_reference(model, texts)
    return [json.loads(json.dumps({name: getattr(text, name) for name in text.__slots__})) for text in taken]


def test_a_faithful_file_passes_and_a_damaged_one_is_caught(
    tmp_path: Path, model: Any, tokenizer: Any, source: ExportSource, reference: list[dict[str, Any]]
) -> None:
    from gguf import GGUFReader

    file = write_tiny_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    parity = measure(source, file, reference, "f32", emit=nothing, cancel=CancelToken())
    assert parity is not None
    assert parity == Parity(parity.tokens, 1.0, pytest.approx(0, abs=1e-3), True)  # type: ignore[arg-type]
    assert parity_notices(parity, "tiny", "f32") == ()

    reader = GGUFReader(str(file), "r+")
    damaged = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    damaged.data[:] = np.roll(damaged.data, 1, axis=0)  # every token is taken for its neighbour
    reader.data.flush()
    del reader, damaged
    parity = measure(source, file, reference, "f32", emit=nothing, cancel=CancelToken())
    assert parity is not None
    assert not parity.acceptable
    (notice,) = parity_notices(parity, "tiny", "f32")
    assert notice.level == "warning"
    assert f"{parity.agreement:.0%} of {parity.tokens} tokens" in notice.text


def test_four_bits_keep_the_embedding_in_eight(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    import gguf

    file = write_tiny_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    events: list[LoadEvent] = []
    requantize(file, tmp_path / "q4.gguf", events.append)
    before = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    reader = gguf.GGUFReader(str(tmp_path / "q4.gguf"))
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.0.ffn_up.weight"] == "Q4_0"
    assert types["output_norm.weight"] == "F32"
    assert reader.get_field("tokenizer.ggml.tokens").contents() == tokenizer.convert_ids_to_tokens(range(259))
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        wanted = before[tensor.name].data
        assert abs(values - wanted).max() <= abs(wanted).max() / 7  # a step of 4 bits: 16 steps from -max to max
    assert events[-1] == LoadProgress("quantize", len(types), len(types), "tensors", "q4_0")


def test_eight_bits_unless_memory_forbids() -> None:
    assert choose_type("auto", 10**9, 8 * 10**9)[0] == "q8_0"
    file_type, (choice,) = choose_type("auto", 10**9, 10**9)
    assert (file_type, choice.value) == ("q4_0", "q4_0")
    assert "1.1 GB" in choice.reason
    assert choose_type("f16", 10**9, 10**9) == ("f16", ())


def test_settings_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="a GGUF file already"):
        find_gguf(LoadConfig(model_id=str(tmp_path / "x.gguf"), gguf_type="q4_0"), emit=nothing, cancel=CancelToken())
    with pytest.raises(ConfigError, match=r"for the llama\.cpp engine, not for transformers"):
        LoadConfig(model_id="demo", gguf_type="q4_0", engine="transformers")
    with pytest.raises(ConfigError, match="transformers was chosen"):
        open_engine(LoadConfig(model_id="tiny-random", gguf_type="q4_0"), worker=False, emit=nothing,
                    cancel=CancelToken())  # fmt: skip


def test_what_llama_cpp_cannot_take_is_found_out_once_and_is_no_warning(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMMAGIC_CACHE_DIR", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "odd"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["OddForCausalLM"]}))
    wanted = LoadConfig(model_id=str(folder), device="cpu")
    with pytest.raises(ModelLoadError, match=r"cannot be converted for llama\.cpp") as caught:
        find_gguf(wanted, emit=nothing, cancel=CancelToken())
    assert "transformers" in caught.value.hint
    assert not list((tmp_path / "cache" / "gguf").glob("*/*.gguf"))

    monkeypatch.setattr(gguf_convert, "run_job", no_job)
    events: list[LoadEvent] = []
    opened = open_for_chat(wanted, emit=events.append, cancel=CancelToken())
    assert isinstance(opened.engine, TransformersEngine)
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert (notice.level, notice.topic) == ("info", "engine")
    assert "cannot be converted" in notice.text
    with pytest.raises(AssertionError, match="was started"):
        find_gguf(replace(wanted, force=True), emit=nothing, cancel=CancelToken())


@pytest.mark.slow
def test_a_cancelled_conversion_leaves_nothing_and_the_next_one_succeeds(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMMAGIC_CACHE_DIR", str(tmp_path / "cache"))
    source = ExportSource("tiny", str(tiny_folder), None, tiny_folder, "key")
    cancel = CancelToken()

    def stop_at_the_file(event: LoadEvent) -> None:
        if isinstance(event, LoadProgress) and event.stage == "convert":
            cancel.request()

    with pytest.raises(CancelledOperation):
        convert_once(source, "q8_0", emit=stop_at_the_file, cancel=cancel)
    assert not [path for path in (tmp_path / "cache" / "gguf").iterdir() if path.is_dir()]
    made = convert_once(source, "q4_0", emit=nothing, cancel=CancelToken())
    assert made.parity is not None
    assert made.parity.acceptable


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("file_type", "least"), [("q8_0", 0.93), ("q4_0", 0.6)])
def test_the_real_model_is_what_it_was(demo_folder: Path, file_type: Any, least: float) -> None:
    source = ExportSource("demo", str(demo_folder), None, demo_folder, "demo")
    made = convert_once(source, file_type, emit=nothing, cancel=CancelToken())
    assert made.parity is not None
    assert made.parity.acceptable
    assert made.parity.agreement >= least


def test_next_tokens_are_those_of_the_original(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    file = write_tiny_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    template = ChatTemplate.from_tokenizer(tokenizer)
    engine = LlamaCppEngine(file, template=template, vocab_size=259, context_window=256)
    told = engine.next_tokens(PROMPT, 8)
    with torch.inference_mode():
        best = torch.log_softmax(model(input_ids=torch.tensor([PROMPT])).logits[0, -1], dim=-1).topk(8)
    assert [token_id for token_id, _ in told] == best.indices.tolist()
    assert [logprob for _, logprob in told] == pytest.approx(best.values.tolist(), abs=2e-3)
    assert first_token(engine) == first_token(TransformersEngine(as_loaded(model, tokenizer)))
    engine.close()
