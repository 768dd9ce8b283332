"""Chat with the tuned model through llama.cpp, in a session that goes on training it with Transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmmagic import Session
from llmmagic.core.config import LoadConfig
from llmmagic.core.errors import ConfigError, ModelNotLoadedError
from llmmagic.core.events import ChatFinished, LoadFinished, LoadProgress, Notice

pytest.importorskip("xllamacpp")

ROWS = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(8)]


def test_another_engine_must_be_one_that_can_have_the_model(session: Session) -> None:
    with pytest.raises(ConfigError, match="engine must be one of") as caught:
        session.chat("Hello", engine="llamacpp")  # type: ignore[arg-type]
    assert "llama.cpp" in caught.value.hint
    with pytest.raises(ConfigError, match="cannot answer through openai"):
        session.chat("Hello", engine="openai")
    with pytest.raises(ModelNotLoadedError):
        Session().prepare_engine("llama.cpp")
    assert session.engine_ready("auto")
    assert session.engine_ready("transformers")
    assert not session.engine_ready("llama.cpp")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tuned_model_answers_through_llama_cpp_and_is_trained_on(session: Session, tmp_path: Path) -> None:
    def train(rate: float) -> None:
        options = {"max_steps": 3, "learning_rate": rate, "output_dir": str(tmp_path / "run")}
        session.train(ROWS, name="numbers", options=options).wait()

    def log_probability() -> float:
        """Of what the tuned model, in full weights, says first; and llama.cpp says the same."""
        ids = [5, 6, 7, 8]
        with torch.inference_mode():
            best = torch.log_softmax(session.model(input_ids=torch.tensor([ids])).logits[0, -1].float(), dim=-1).max(0)
        assert session._second is not None
        told = dict(session._second.engine.next_tokens(ids, 3))  # type: ignore[attr-defined]
        assert told[int(best.indices)] == pytest.approx(float(best.values), abs=0.05)
        return float(best.values)

    session.load(LoadConfig(model_id="tiny-random", quantization="none")).wait()
    train(1e-2)
    events = list(session.prepare_engine("llama.cpp"))
    finished = events[-1]
    assert isinstance(finished, LoadFinished)
    assert (finished.reused, finished.info.engine, finished.info.adapter) == (False, "llama.cpp", "numbers")
    assert finished.info.parity is not None
    assert any(isinstance(event, LoadProgress) and event.stage == "convert" for event in events)
    first = log_probability()

    session.ask("What is 3?", max_new_tokens=4, temperature=0)
    reply = session.chat("And what is 4?", max_new_tokens=4, temperature=0, engine="llama.cpp").wait()
    assert isinstance(reply, ChatFinished)
    assert reply.stats.completion_tokens == 4
    path = session.conversation().path()
    assert [message.role for message in path] == ["user", "assistant"] * 2
    assert session.info is not None
    assert session.info.engine == "transformers"

    train(5e-2)
    assert not session.engine_ready("llama.cpp")
    again = list(session.chat("And 5?", max_new_tokens=2, temperature=0, engine="llama.cpp"))
    assert isinstance(again[-1], ChatFinished)
    assert not any(isinstance(event, Notice) and event.level == "warning" for event in again)
    assert abs(log_probability() - first) > 0.1
    session.use_adapter(None)
    assert not session.engine_ready("llama.cpp")
