"""Batches without padding: chosen only where rows stay apart, and the same run as with padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from llmmagic.core.config import TrainConfig
from llmmagic.core.events import Notice, TrainFinished, TrainStarted, TrainStep
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.batching import rows_stay_apart
from llmmagic.core.training.run import train
from tests.core.training.conftest import Events, Load

ROWS = [{"question": f"What is number {i}?", "answer": "It is " + "odd, " * (0 if i % 4 else 40)} for i in range(16)]


def run(loaded: LoadedModel, events: Events, data: Any = ROWS, **settings: Any) -> dict[str, str]:
    options = {"max_steps": 5, "learning_rate": 1e-2, **settings.pop("options", {})}
    config = TrainConfig(name="numbers", options=options, lora={"lora_dropout": 0.0}, **settings)
    finished = train(loaded, data, config, emit=events.append, cancel=CancelToken())
    assert isinstance(finished, TrainFinished)
    (started,) = (event for event in events if isinstance(event, TrainStarted))
    return started.settings


def losses(events: Events) -> list[float | None]:
    return [event.loss for event in events if isinstance(event, TrainStep)]


@contextmanager
def shapes(loaded: LoadedModel) -> Iterator[list[tuple[int, ...]]]:
    seen: list[tuple[int, ...]] = []
    hook = loaded.model.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


def test_rows_share_a_sequence_and_the_steps_stay_the_same(
    tiny: LoadedModel, load: Load, tiny_folder: Path, events: Events, tmp_path: Path
) -> None:
    with shapes(tiny) as seen:
        settings = run(tiny, events, options={"output_dir": str(tmp_path / "a")})
    assert settings["padding_free"] == "True"
    assert {shape[0] for shape in seen[-5:]} == {1}
    padded, other = Events(), load(tiny_folder)
    with shapes(other) as wide:
        settings = run(other, padded, options={"padding_free": False, "output_dir": str(tmp_path / "b")})
    assert settings["padding_free"] == "False"
    assert {shape[0] for shape in wide[-5:]} == {4}
    assert sum(shape[1] for shape in seen[-5:]) < sum(4 * shape[1] for shape in wide[-5:])
    assert losses(events) == pytest.approx(losses(padded), rel=1e-4)


def test_a_model_whose_rows_see_each_other_is_found_out_and_grouped_by_length(
    tiny: LoadedModel, events: Events, tmp_path: Path
) -> None:
    assert rows_stay_apart(tiny.model)
    inner = tiny.model.model
    # As attention does that goes by the mask alone: positions say nothing about where a row begins.
    hook = inner.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "position_ids": None}), with_kwargs=True
    )
    assert not rows_stay_apart(tiny.model)
    settings = run(tiny, events, options={"output_dir": str(tmp_path)})
    assert settings["padding_free"] == "False"
    assert settings["train_sampling_strategy"] == "group_by_length"
    events.clear()
    run(tiny, events, options={"packing": True, "max_length": 200, "output_dir": str(tmp_path)})
    hook.remove()
    (notice,) = (event.text for event in events if isinstance(event, Notice) and event.topic == "packing")
    assert "see each other" in notice


def test_rows_of_one_length_are_left_as_they_are(tiny: LoadedModel, events: Events, tmp_path: Path) -> None:
    rows = [{"question": f"What is number {i:02}?", "answer": "A number."} for i in range(16)]
    settings = run(tiny, events, rows, options={"output_dir": str(tmp_path)})
    assert (settings["padding_free"], settings["train_sampling_strategy"]) == ("False", "random")


def test_the_tutorials_recipe_stays_what_it_was(
    tiny: LoadedModel, events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = run(tiny, events, recipe="tutorial")
    assert (settings["padding_free"], settings["packing"]) == ("False", "False")
    assert settings["train_sampling_strategy"] == "random"


def test_trying_it_out_draws_no_random_number_of_others(tiny: LoadedModel) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    tiny.model.train()
    rows_stay_apart(tiny.model)
    assert tiny.model.training
    tiny.model.eval()
    assert torch.equal(torch.rand(1), expected)
