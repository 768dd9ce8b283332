"""Interrupted at any moment, resumed, and the same to the last bit."""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import TrainingError
from llmmagic.core.events import Notice, TrainFinished, TrainStep
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.run import train
from tests.core.training.conftest import Events, Load

ROWS = [{"question": f"What is number {i}?", "answer": f"It is {'odd' if i % 2 else 'even'}."} for i in range(22)]
# Dropout draws random numbers in every step: only a run whose random state is restored ends with the same weights.
OPTIONS = {"max_steps": 60, "learning_rate": 5e-3, "save_steps": 3}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def config(folder: Path, *, resume: bool = False, **options: Any) -> TrainConfig:
    return TrainConfig(name="numbers", resume=resume, options={**OPTIONS, "output_dir": str(folder), **options})


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("checkpoint"))


def test_a_stopped_run_resumes_and_ends_with_the_same_weights(
    load: Load, tiny_folder: Path, tmp_path: Path, events: Events
) -> None:
    options = {"max_steps": 12, "save_steps": 5}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(load(tiny_folder), ROWS, config(whole, **options), emit=events.append, cancel=CancelToken())
    cancel = CancelToken()

    def stop_at_7(event: Any) -> None:
        if isinstance(event, TrainStep) and event.step == 6:
            cancel.request()

    first = train(load(tiny_folder), ROWS, config(stopped, **options), emit=stop_at_7, cancel=cancel)
    assert isinstance(first, TrainFinished)
    assert (first.reason, first.steps) == ("cancelled", 7)
    assert checkpoints(stopped) == ["checkpoint-5", "checkpoint-7"]
    assert not same(whole, stopped)

    loaded = load(tiny_folder)  # a new session: the adapter is not there
    resumed = Events()
    second = train(loaded, ROWS, config(stopped, resume=True, **options), emit=resumed.append, cancel=CancelToken())
    assert isinstance(second, TrainFinished)
    assert (second.reason, second.steps) == ("completed", 12)
    assert [event.step for event in resumed if isinstance(event, TrainStep)] == [8, 9, 10, 11, 12]
    assert same(whole, stopped)
    assert loaded.info.adapter == "numbers"


def test_checkpoints_are_written_by_time_and_gone_when_the_run_is_complete(
    tiny: LoadedModel, tmp_path: Path, events: Events
) -> None:
    seen = set()

    def look(event: Any) -> None:
        if isinstance(event, TrainStep):
            seen.update(checkpoints(tmp_path))

    settings = TrainConfig(checkpoint_minutes=1e-9, options={"max_steps": 6, "output_dir": str(tmp_path)})
    train(tiny, ROWS, settings, emit=look, cancel=CancelToken())
    assert seen == {f"checkpoint-{step}" for step in range(1, 6)}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_checkpoint_is_an_adapter_that_can_be_loaded(
    tiny: LoadedModel, load: Load, tiny_folder: Path, tmp_path: Path, events: Events
) -> None:
    from llmmagic.core.models.adapters import attach_adapter
    from llmmagic.core.training.guard import lent_model

    train(tiny, ROWS, config(tmp_path, max_steps=4, save_steps=4), emit=events.append, cancel=CancelToken())
    fresh = load(tiny_folder)
    with lent_model(fresh):
        attach_adapter(fresh, tmp_path / "checkpoint-4" / "numbers")
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(fresh.model(input_ids=ids).logits, tiny.model(input_ids=ids).logits)


def test_a_run_that_is_not_resumed_is_set_aside(tiny: LoadedModel, tmp_path: Path, events: Events) -> None:
    train(tiny, ROWS, config(tmp_path, max_steps=4, save_steps=2), emit=events.append, cancel=CancelToken())
    train(tiny, ROWS, config(tmp_path, max_steps=2, save_steps=2), emit=events.append, cancel=CancelToken())
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    assert checkpoints(tmp_path / "superseded") == ["checkpoint-4"]
    assert [event.topic for event in events if isinstance(event, Notice)] == ["superseded"]


def test_what_cannot_be_resumed_is_refused(tiny: LoadedModel, tmp_path: Path, events: Events) -> None:
    def resume(data: Any = ROWS, **options: Any) -> None:
        train(tiny, data, config(tmp_path, resume=True, **options), emit=events.append, cancel=CancelToken())

    with pytest.raises(TrainingError, match="no checkpoint to resume from"):
        resume()
    train(tiny, ROWS, config(tmp_path, max_steps=3), emit=events.append, cancel=CancelToken())
    with pytest.raises(TrainingError, match="The run of checkpoint-3 was another one: data changed since"):
        resume(ROWS[:20])
    with pytest.raises(TrainingError, match="seed and batch size changed"):
        resume(per_device_train_batch_size=2, seed=1)
    (tmp_path / "checkpoint-3" / "llmmagic_run.json").unlink()
    with pytest.raises(TrainingError, match="was not written by llmmagic"):
        resume()


def run_in_child(model: Path, folder: Path, resume: bool) -> None:
    """What the kernel that is killed does."""
    from tests.core.training.conftest import load_folder

    torch.set_num_threads(1)
    train(load_folder(model), ROWS, config(folder, resume=resume), emit=lambda event: None, cancel=CancelToken())


def kill_and_resume(model: Path, folder: Path, kills: int, seed: int) -> None:
    """Kill a run at random moments, resume it each time, and let it end."""
    chance = random.Random(seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.core.training.test_resume"])

    def start() -> BaseProcess:
        resume = any(folder.glob("checkpoint-*"))
        child = context.Process(target=run_in_child, args=(model, folder, resume))
        child.start()
        return child

    killed = 0
    while killed < kills:
        child = start()
        before = set(folder.glob("checkpoint-*"))
        while child.is_alive() and set(folder.glob("checkpoint-*")) == before:  # let it get somewhere
            time.sleep(0.005)
        child.join(chance.uniform(0, 0.3))
        if not child.is_alive():
            break
        child.kill()
        child.join()
        killed += 1
    child = start() if child.exitcode != 0 else child
    child.join(120)
    assert child.exitcode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL and no fork server on Windows")
@pytest.mark.parametrize("kills", [pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_weights_end_up_bit_equal(
    tiny_folder: Path, tmp_path: Path, events: Events, load: Load, kills: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(load(tiny_folder), ROWS, config(whole), emit=events.append, cancel=CancelToken())
    finally:
        torch.set_num_threads(threads)
    kill_and_resume(tiny_folder, killed, kills, seed=kills)
    assert same(whole, killed)
    assert [path.name for path in killed.iterdir() if path.name.startswith(".")] == []


def test_a_run_that_died_after_its_last_step_is_finished_by_resuming(
    tiny_folder: Path, tmp_path: Path, events: Events, load: Load
) -> None:
    def run(resume: bool) -> tuple[TrainFinished, bytes]:
        settings = config(tmp_path, resume=resume, max_steps=7, save_steps=7)
        finished = train(load(tiny_folder), ROWS, settings, emit=events.append, cancel=CancelToken())
        assert isinstance(finished, TrainFinished)
        return finished, (tmp_path / "adapter_model.safetensors").read_bytes()

    first, weights = run(resume=False)
    (tmp_path / "adapter_model.safetensors").unlink()
    second, resumed = run(resume=True)
    assert (first.steps, second.steps, second.reason) == (7, 7, "completed")
    assert resumed == weights
