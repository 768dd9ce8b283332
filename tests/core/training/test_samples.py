"""Sample answers: what the model says at each point of its training, without changing what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import ConfigError
from llmmagic.core.events import TrainFinished, TrainSample, TrainStep
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.examples import make_examples_like_chat
from llmmagic.core.training.run import train
from tests.core.training.conftest import Events, Load
from tests.core.training.test_resume import same

ROWS = [{"question": f"Question {i}", "answer": "Yes."} for i in range(8)]
# Dropout and shuffling draw random numbers: whatever a sample drew would change the weights.
OPTIONS = {"max_steps": 12, "learning_rate": 2e-2, "save_steps": 5}


def run(loaded: LoadedModel, folder: Path, events: Events, **settings: Any) -> TrainFinished:
    options = {**OPTIONS, "output_dir": str(folder), **settings.pop("options", {})}
    cancel = settings.pop("cancel", CancelToken())
    emit = settings.pop("emit", events.append)
    config = TrainConfig(name="yes", options=options, **settings)
    finished = train(loaded, ROWS, config, emit=emit, cancel=cancel)
    assert isinstance(finished, TrainFinished)
    return finished


def test_answers_come_before_during_and_after_and_change(llama2: LoadedModel, tmp_path: Path, events: Events) -> None:
    options = {"max_steps": 60, "per_device_train_batch_size": 8}
    talk = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "?"})
    run(llama2, tmp_path, events, options=options, samples=("Question 3", talk), sample_steps=25, sample_tokens=20)
    samples = [event for event in events if isinstance(event, TrainSample)]
    assert [(sample.step, sample.prompt) for sample in samples] == [
        (step, prompt) for step in (0, 25, 50, 60) for prompt in ("Question 3", "?")
    ]
    assert samples[0].text != samples[-2].text
    assert samples[-2].text.strip() == "Yes."  # it learnt to say it, and to stop
    assert samples[-2].finish_reason == "stop"
    # token for token what the chat would send, and greedy
    maker = make_examples_like_chat(llama2.model, llama2.tokenizer, max_length=512)
    ids = torch.tensor([maker.chat_prompt([{"role": "user", "content": "Question 3"}])])
    mask = torch.ones_like(ids)
    out = llama2.model.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False, pad_token_id=2)
    assert llama2.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True) == samples[-2].text


def test_samples_change_nothing_of_the_training_and_a_resumed_run_ends_the_same(
    load: Load, tiny_folder: Path, tmp_path: Path, events: Events
) -> None:
    plain, sampled, stopped = tmp_path / "plain", tmp_path / "sampled", tmp_path / "stopped"
    asked: dict[str, Any] = {"samples": ("Question 3",), "sample_steps": 2, "sample_tokens": 5}
    run(load(tiny_folder), plain, events)
    loaded = load(tiny_folder)
    run(loaded, sampled, events, **asked)
    assert same(plain, sampled)
    assert not loaded.model.training
    cancel = CancelToken()

    def stop(event: Any) -> None:
        events.append(event)
        if isinstance(event, TrainStep) and event.step == 6:
            cancel.request()

    first = run(load(tiny_folder), stopped, events, emit=stop, cancel=cancel, **asked)
    assert (first.reason, first.steps) == ("cancelled", 7)
    events.clear()
    run(load(tiny_folder), stopped, events, resume=True, **asked)
    assert same(plain, stopped)
    assert [event.step for event in events if isinstance(event, TrainSample)] == [0, 8, 10, 12]


def test_a_run_is_sampled_four_times_by_itself(tiny: LoadedModel, tmp_path: Path, events: Events) -> None:
    run(tiny, tmp_path, events, samples=("Q",), sample_tokens=2, options={"max_steps": 8, "save_steps": 50})
    assert [event.step for event in events if isinstance(event, TrainSample)] == [0, 2, 4, 6, 8]


def test_what_cannot_be_a_sample_is_refused(tiny: LoadedModel, tmp_path: Path, events: Events) -> None:
    with pytest.raises(ConfigError, match="samples must be a list of prompts, got 'Q'"):
        TrainConfig(samples="Q")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="A sample must be a prompt, got ' '"):
        TrainConfig(samples=(" ",))
    with pytest.raises(ConfigError, match="sample_steps must be >= 1, got 0"):
        TrainConfig(sample_steps=0)
    model = tiny.model
    with pytest.raises(ConfigError, match="has no question"):
        run(tiny, tmp_path, events, samples=(({"role": "assistant", "content": "A"},),))
    with pytest.raises(ConfigError, match="leaves no room for an answer"):
        run(tiny, tmp_path, events, samples=("word " * 1000,))
    assert tiny.model is model
