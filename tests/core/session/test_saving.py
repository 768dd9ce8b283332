"""Saved as a whole model and as a GGUF file: what comes back says what the session says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmmagic import Session
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import LoadConfig
from llmmagic.core.engines.llama_cpp import LlamaCppEngine
from llmmagic.core.errors import AdapterError, ConfigError, StorageError
from llmmagic.core.events import Notice, SaveFinished

ROWS = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(8)]


def test_what_cannot_be_saved_is_refused(session: Session, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format must be one of adapter, merged, gguf"):
        session.save(tmp_path, format="merge")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gguf_type must be one of") as caught:
        session.save(tmp_path, format="gguf", gguf_type="q4")  # type: ignore[arg-type]
    assert "q4_0" in caught.value.hint
    with pytest.raises(AdapterError, match="no adapter"):
        session.save(tmp_path / "a").wait()
    with pytest.raises(AdapterError, match="no adapter 'other'"):
        session.save(tmp_path / "a", format="merged", name="other").wait()
    assert session.busy is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_merged_weights_and_a_gguf_file_are_the_tuned_model(session: Session, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    session.load(LoadConfig(model_id="tiny-random", quantization="none")).wait()
    options = {"max_steps": 3, "learning_rate": 5e-2, "output_dir": str(tmp_path / "run")}
    session.train(ROWS, name="numbers", options=options).wait()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        tuned = session.model(input_ids=ids).logits[0, -1]

    merged = session.save(tmp_path / "whole", format="merged").wait()
    assert isinstance(merged, SaveFinished)
    assert (merged.format, merged.kind, merged.adapter) == ("merged", "float32", "numbers")
    other = Session()
    other.load(LoadConfig(model_id=merged.path, quantization="none")).wait()
    assert other.info is not None
    assert other.info.adapter is None
    with torch.inference_mode():
        assert torch.allclose(other.model(input_ids=ids).logits[0, -1], tuned, atol=1e-3)
    other.close()
    (tmp_path / "whole" / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(StorageError, match="holds other weights"):
        session.save(tmp_path / "whole", format="merged").wait()

    *notices, saved = session.save(tmp_path / "out", format="gguf")
    assert isinstance(saved, SaveFinished)
    assert Path(saved.path) == tmp_path / "out" / "numbers-q8_0.gguf"
    assert saved.parity is not None
    assert saved.parity.acceptable
    assert saved.modelfile is not None
    assert "FROM ./numbers-q8_0.gguf" in Path(saved.modelfile).read_text()
    assert "pre-tokenizer" in [event.topic for event in notices if isinstance(event, Notice)]
    template = ChatTemplate.from_tokenizer(session.tokenizer)
    engine = LlamaCppEngine(Path(saved.path), template=template, vocab_size=259, context_window=64)
    wanted = torch.log_softmax(tuned, dim=-1)
    for token_id, logprob in engine.next_tokens([5, 6, 7, 8], 5):
        assert logprob == pytest.approx(float(wanted[token_id]), abs=0.05)
    engine.close()
