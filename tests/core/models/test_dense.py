"""Dense copies: the same numbers to the bit, in and after training, and the 4-bit weights stay the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llmmagic import LoadConfig, Session
from llmmagic.core.models.dense import DenseLinear4bit, keep_dense_copies

ROWS = [{"question": f"What is {number}?", "answer": f"It is {number}."} for number in range(8)]


def load(folder: Path, copy: str) -> Session:
    session = Session()
    session.load(str(folder), quantization="nf4", dense_copy=copy).wait()
    return session


def logits(session: Session) -> torch.Tensor:
    """For a fixed prompt: (T, V)."""
    with torch.inference_mode():
        result: torch.Tensor = session.model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[0]
    return result


def test_a_copy_changes_no_number_before_and_after_training(tiny_folder: Path, tmp_path: Path) -> None:
    results, trained, states = [], [], []
    for copy in ("on", "off"):
        session = load(tiny_folder, copy)
        results.append(logits(session))
        states.append({name: value.clone() for name, value in session.model.state_dict().items()})
        options = {"max_steps": 3, "learning_rate": 1e-2, "output_dir": str(tmp_path / copy)}
        session.train(ROWS, options=options).wait()
        trained.append(logits(session))
        session.close()
    assert torch.equal(*results)
    assert torch.equal(*trained)
    assert not torch.equal(results[0], trained[0])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_card_says_so_and_counts_the_memory(tiny_folder: Path) -> None:
    with_copy, without = load(tiny_folder, "auto"), load(tiny_folder, "off")
    assert with_copy.info is not None
    assert without.info is not None
    choice = next(choice for choice in with_copy.info.choices if choice.name == "dense copy")
    assert choice.value == "on"
    assert "the same numbers" in choice.reason
    weights = sum(m.in_features * m.out_features for m in with_copy.model.modules() if isinstance(m, DenseLinear4bit))
    assert weights == 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3)
    assert with_copy.info.memory_bytes - without.info.memory_bytes == 4 * weights
    assert not any(isinstance(module, DenseLinear4bit) for module in without.model.modules())


def test_too_little_memory_goes_without(tiny_folder: Path) -> None:
    session = load(tiny_folder, "off")
    choices, taken = keep_dense_copies(session.model, "auto", free_bytes=300_000)
    assert [(choice.name, choice.value) for choice in choices] == [("dense copy", "off")]
    assert taken == 0


def test_other_weights_in_place_make_another_copy(tiny_folder: Path) -> None:
    session = load(tiny_folder, "on")
    before = logits(session)
    layer = next(module for module in session.model.modules() if isinstance(module, DenseLinear4bit))
    weight = layer.weight
    layer.weight = type(weight)(torch.zeros(layer.out_features, layer.in_features), quant_type="nf4").to("cpu")
    assert not torch.equal(logits(session), before)


@pytest.mark.parametrize("copy", ["of", "yes"])
def test_what_is_not_allowed_is_refused(copy: str) -> None:
    with pytest.raises(ValueError, match="dense_copy must be one of auto, on, off"):
        LoadConfig(model_id="demo", dense_copy=copy)  # type: ignore[arg-type]
