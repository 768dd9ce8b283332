"""Guesses decide how soon a token comes, never which: the same ids, the same cache, fewer passes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines.drafting import DraftingFeeder, NgramLookup
from llmmagic.core.engines.transformers import TransformersEngine
from llmmagic.core.events import GenerationFinished, TextDelta
from llmmagic.core.operation import CancelToken
from tests.core.engines.conftest import as_loaded

QUOTES = list(b"Repeat: one two three four, one two three four, one two three")


@contextmanager
def counted_passes(model: Any) -> Iterator[list[int]]:
    """How many tokens each pass of the model was fed."""
    fed: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _module, _args, kwargs: fed.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        yield fed
    finally:
        hook.remove()


def finished(engine: TransformersEngine, prompt: list[int], config: GenerationConfig) -> GenerationFinished:
    last = list(engine.generate(prompt, config, CancelToken()))[-1]
    assert isinstance(last, GenerationFinished)
    return last


def held(engine: TransformersEngine) -> tuple[list[int], set[int]]:
    cache = engine._kv_cache
    assert cache is not None
    return cache.token_ids, {layer.get_seq_length() for layer in cache.past_key_values.layers}


@pytest.mark.parametrize("seed", range(8))
def test_the_same_reply_as_without_guessing(model: Any, tokenizer: Any, seed: int) -> None:
    chance = random.Random(seed)
    phrase = [chance.randrange(97, 123) for _ in range(chance.randint(3, 9))]
    prompt = phrase * chance.randint(1, 6)
    config = chance.choice(
        [
            GenerationConfig(max_new_tokens=60, temperature=0),
            GenerationConfig(max_new_tokens=60, temperature=0, repetition_penalty=1.3),
            GenerationConfig(max_new_tokens=60, temperature=0.3, top_p=0.9, seed=seed),
            GenerationConfig(max_new_tokens=60, temperature=1.0, seed=seed, stop=("zz",)),
        ]
    )
    with_guesses = TransformersEngine(as_loaded(model, tokenizer))
    without = TransformersEngine(as_loaded(model, tokenizer), drafts=False)
    for _ in range(2):  # the second turn goes on from a cache that guesses went through
        ours, plain = finished(with_guesses, prompt, config), finished(without, prompt, config)
        assert (ours.token_ids, ours.text, ours.finish_reason) == (plain.token_ids, plain.text, plain.finish_reason)
        assert ours.stats.cached_tokens == plain.stats.cached_tokens
        sequence = prompt + list(ours.token_ids)
        assert held(with_guesses) == (sequence[:-1], {len(sequence) - 1})
        prompt = [*sequence, *phrase]


def test_text_that_repeats_itself_takes_fewer_passes(model: Any, tokenizer: Any) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer))
    with counted_passes(model) as fed:  # greedy, the tiny model says the same byte for ever
        last = finished(engine, QUOTES, GenerationConfig(max_new_tokens=200, temperature=0))
    assert len(last.token_ids) == 200
    assert max(fed[1:]) == 17
    assert len(fed) < 40
    assert sum(fed) <= len(QUOTES) + 200 + 2 * 16


def test_no_guess_goes_past_the_end_of_the_window(model: Any, tokenizer: Any) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer, context_window=100))
    last = finished(engine, QUOTES, GenerationConfig(max_new_tokens=200, temperature=0))
    assert last.finish_reason == "context"
    assert held(engine)[0] == QUOTES + list(last.token_ids[:-1])
    assert len(held(engine)[0]) == 99


@pytest.mark.parametrize("leave", ["cancel", "close"])
def test_a_reply_that_is_left_leaves_only_what_was_said(model: Any, tokenizer: Any, leave: str) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer))
    cancel = CancelToken()
    events = engine.generate(QUOTES, GenerationConfig(max_new_tokens=200, temperature=0), cancel)
    said: list[int] = []
    for event in events:
        if isinstance(event, TextDelta):
            said += event.token_ids
        if len(said) == 40:
            if leave == "close":
                events.close()  # type: ignore[attr-defined]  # it is a generator
                break
            cancel.request()
    ids, lengths = held(engine)
    assert ids == (QUOTES + said)[: len(ids)]
    assert len(ids) >= len(QUOTES) + 39
    assert lengths == {len(ids)}


def test_sixteen_bits_are_not_guessed_in(model: Any, tokenizer: Any) -> None:
    from llmmagic.core.models.tiny import make_model

    half = make_model(tokenizer).to(torch.bfloat16)
    engine = TransformersEngine(as_loaded(half, tokenizer))
    with counted_passes(half) as fed:
        finished(engine, QUOTES, GenerationConfig(max_new_tokens=30, temperature=0))
    assert set(fed[1:]) == {1}


def test_the_newest_occurrence_is_gone_on_from() -> None:
    lookup = NgramLookup([1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 1, 2, 3])
    assert lookup.guess(2) == [5, 6]
    assert lookup.guess(7) == [5, 6, 1, 2, 3, 5, 6]
    lookup.add(4)
    assert lookup.guess(3) == [9, 1, 2]
    assert NgramLookup([1, 2]).guess(4) == []
    assert NgramLookup([7, 7, 7]).guess(4) == []
    assert NgramLookup([7, 7, 7, 7]).guess(4) == [7, 7, 7, 7]


class Said:
    """A model that goes on with a text of its own, and counts what it is fed."""

    def __init__(self, text: Sequence[int]) -> None:
        self.text = list(text)
        self.position = 0
        self.fed: list[int] = []

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        self.fed.append(len(ids))
        rows = torch.zeros(len(ids), 1000)
        for i in range(len(ids)):
            rows[i, self.text[min(self.position + i + 1, len(self.text) - 1)]] = 1
        self.position += len(ids)
        return rows

    def forget(self, count: int) -> None:
        self.position -= count


def passes_for(prompt: list[int], reply: list[int]) -> list[int]:
    """What is fed in each pass when a model says ``reply``."""
    model = Said([*reply, 0])
    feeder = DraftingFeeder(model, prompt, len(reply) + 1)
    token = reply[0]
    said: list[int] = []
    while len(said) < len(reply):
        said.append(token)
        token = int(feeder.step(token).argmax())
    assert said == reply
    feeder.settle()
    assert model.position == len(reply)
    return model.fed


def test_wrong_guesses_become_rare() -> None:
    """A prompt full of beginnings that the reply never goes on with: every third token invites a guess."""
    chance = random.Random(1)
    prompt: list[int] = []
    reply: list[int] = []
    for number in range(300):
        start = [chance.randrange(200, 400) for _ in range(3)]
        prompt += [*start, 900, 901, 902, 903]
        reply += [*start, 500 + number % 300]
    fed = passes_for(prompt, reply)
    assert len(fed) == len(reply)  # no guess was right
    guesses = [count for count in fed if count > 1]
    assert 4 <= len(guesses) <= 10
    assert sum(count > 1 for count in fed[:300]) <= 6  # at two passes each, 2 % of a reply of that length


def test_quoting_takes_a_pass_for_many_tokens() -> None:
    chance = random.Random(2)
    prompt = [chance.randrange(1000) for _ in range(400)]
    fed = passes_for(prompt, prompt[50:350])
    assert len(fed) < 300 / 10
