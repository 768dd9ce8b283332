"""Every sampling option gives the distribution that transformers' own logits processors give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines.sampling import distribution, penalize_repetition, sample
from llmmagic.core.engines.sampling_settings import Sampling, resolve_sampling
from llmmagic.core.errors import ConfigError

V = 3000  # more than the first look of the nucleus search
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}


def settings(**changes: Any) -> Sampling:
    return Sampling(**{**PLAIN, **changes})


def random_logits(seed: int, *, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(V, generator=torch.Generator().manual_seed(seed)) * scale


def dense(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    probs, ids = distribution(logits, sampling)
    if ids is None:
        return probs
    return torch.zeros(V).scatter(0, ids, probs)


def expected(logits: torch.Tensor, processors: list[LogitsProcessor]) -> torch.Tensor:
    scores = logits[None]
    for processor in processors:
        scores = processor(torch.zeros((1, 0), dtype=torch.long), scores)
    return torch.softmax(scores[0], dim=-1)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("changes", "processors"),
    [
        ({"temperature": 0.3}, [TemperatureLogitsWarper(0.3)]),
        ({"temperature": 2.5}, [TemperatureLogitsWarper(2.5)]),
        ({"top_k": 1}, [TopKLogitsWarper(1)]),
        ({"top_k": 40}, [TopKLogitsWarper(40)]),
        ({"top_k": V + 5}, []),
        ({"top_p": 0.05}, [TopPLogitsWarper(0.05)]),
        ({"top_p": 0.9}, [TopPLogitsWarper(0.9)]),
        ({"min_p": 0.02}, [MinPLogitsWarper(0.02)]),
        ({"min_p": 1.0}, [MinPLogitsWarper(1.0)]),
        (
            {"temperature": 0.7, "top_k": 50, "top_p": 0.8, "min_p": 0.1},
            [TemperatureLogitsWarper(0.7), TopKLogitsWarper(50), TopPLogitsWarper(0.8), MinPLogitsWarper(0.1)],
        ),
    ],
)
def test_distribution_is_that_of_transformers(
    seed: int, changes: dict[str, Any], processors: list[LogitsProcessor]
) -> None:
    logits = random_logits(seed)
    torch.testing.assert_close(dense(logits, settings(**changes)), expected(logits, processors))


def test_a_flat_distribution_needs_more_than_the_first_look() -> None:
    logits = random_logits(0, scale=0.01)
    probs = dense(logits, settings(top_p=0.9))
    assert int((probs > 0).sum()) > 512
    torch.testing.assert_close(probs, expected(logits, [TopPLogitsWarper(0.9)]))


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = random_logits(3)
    ids = torch.tensor([5, 6, 5, 2999])
    seen = torch.zeros(V, dtype=torch.bool)
    seen[ids] = True
    want = RepetitionPenaltyLogitsProcessor(penalty)(ids[None], logits[None])[0]
    torch.testing.assert_close(penalize_repetition(logits, seen, penalty), want)


def test_greedy_takes_the_most_likely_token_and_no_random_number() -> None:
    generator = torch.Generator().manual_seed(7)
    before = generator.get_state()
    logits = random_logits(4)
    assert int(sample(logits, settings(temperature=0.0), generator=generator)) == int(logits.argmax())
    assert torch.equal(generator.get_state(), before)


def test_greedy_heeds_the_repetition_penalty() -> None:
    logits = torch.tensor([3.0, 2.9, 0.0])
    seen = torch.tensor([True, False, False])
    generator = torch.Generator()
    assert int(sample(logits, settings(temperature=0.0, repetition_penalty=1.2), generator=generator, seen=seen)) == 1


def test_samples_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([sample(logits, settings(), generator=generator) for _ in range(20_000)])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    # four standard deviations of a share near 0.6 in 20,000 draws are 0.014
    torch.testing.assert_close(shares, torch.softmax(logits, -1), atol=0.014, rtol=0)


def test_filtered_tokens_are_never_drawn() -> None:
    logits = random_logits(5)
    allowed = set(torch.topk(logits, 3).indices.tolist())
    generator = torch.Generator().manual_seed(0)
    drawn = {int(sample(logits, settings(top_k=3), generator=generator)) for _ in range(200)}
    assert drawn == allowed


def test_same_seed_same_tokens() -> None:
    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return [int(sample(random_logits(i), settings(), generator=generator)) for i in range(20)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_half_precision_logits_are_sampled_in_float32() -> None:
    logits = random_logits(6).bfloat16()
    assert int(sample(logits, settings(top_k=1), generator=torch.Generator())) == int(logits.float().argmax())


def test_open_settings_come_from_a_model_that_samples_else_from_ours() -> None:
    ours = {"temperature": 0.7, "top_k": 0, "top_p": 0.95, "min_p": 0.0, "repetition_penalty": 1.0}
    assert resolve_sampling(GenerationConfig()) == Sampling(**ours)  # type: ignore[arg-type]

    greedy_model = SimpleNamespace(do_sample=False, temperature=1.0, top_p=1.0)
    assert resolve_sampling(GenerationConfig(), greedy_model) == Sampling(**ours)  # type: ignore[arg-type]

    sampling_model = SimpleNamespace(do_sample=True, temperature=0.6, top_k=20, top_p=None, repetition_penalty=1.05)
    assert resolve_sampling(GenerationConfig(top_k=5), sampling_model) == Sampling(
        temperature=0.6, top_k=5, top_p=0.95, min_p=0.0, repetition_penalty=1.05
    )


def test_zero_is_a_setting_and_not_a_gap() -> None:
    model = SimpleNamespace(do_sample=True, temperature=0.6, top_k=20)
    resolved = resolve_sampling(GenerationConfig(temperature=0, top_k=0), model)
    assert (resolved.temperature, resolved.top_k, resolved.greedy) == (0, 0, True)


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"max_new_tokens": 0},
        {"stop": ("",)},
    ],
)
def test_out_of_range_settings_are_refused_by_name(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        GenerationConfig(**bad)
