"""From logits to the next token: pure functions, and `Sampler`, which holds what they need from token to token.

The order of the steps is that of ``transformers.GenerationMixin.generate``: repetition penalty, temperature, top_k,
top_p, min_p. So a model's published settings mean here what they mean there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llmmagic.core.engines.sampling_settings import Sampling

# A nucleus is rarely larger: looking at this many tokens first saves sorting the whole vocabulary for each token.
_NUCLEUS_GUESSES = (512, 8192)


def penalize_repetition(logits: torch.Tensor, seen: torch.Tensor, penalty: float) -> torch.Tensor:
    """Make tokens that occurred less likely (CTRL, arXiv:1909.05858, section 4.1).

    Args:
        logits: (V,).
        seen: (V,) bool, true where the token occurs in the prompt or the reply.
        penalty: Above 1 discourages repetition, below 1 encourages it.

    Returns:
        (V,), a new tensor.
    """
    # A negative logit is multiplied: dividing it would make the token more likely.
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def distribution(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What is sampled from.

    Args:
        logits: (V,) float32.
        sampling: With a temperature above 0.

    Returns:
        Probabilities (K,) that add up to 1, and the token ids (K,) they belong to, the most likely first; ``None``
        instead of ids when nothing was filtered and K = V in the order of the vocabulary.
    """
    logits = logits / sampling.temperature
    ids: torch.Tensor | None = None
    if 0 < sampling.top_k < logits.shape[0]:
        logits, ids = torch.topk(logits, sampling.top_k)
    probs = torch.softmax(logits, dim=-1)
    if sampling.top_p < 1:
        probs, ids = _nucleus(probs, ids, sampling.top_p)
    if sampling.min_p > 0:
        keep = probs >= sampling.min_p * probs.max()
        ids = torch.nonzero(keep).squeeze(-1) if ids is None else ids[keep]
        probs = probs[keep]
    return probs / probs.sum(), ids


def _nucleus(probs: torch.Tensor, ids: torch.Tensor | None, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The fewest tokens that together have at least ``top_p`` (arXiv:1904.09751, section 3.1); always one at least."""
    if ids is not None:  # sorted already by top_k
        ranked, order = probs, ids
    else:
        ranked, order = _most_likely(probs, top_p)
    before = ranked.cumsum(-1) - ranked  # what the more likely tokens have without this one
    keep = before < top_p
    keep[0] = True
    return ranked[keep], order[keep]


def _most_likely(probs: torch.Tensor, total: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Enough of the most likely tokens to have ``total`` together, the most likely first."""
    if probs.device.type == "cpu":  # on a GPU sorting is cheap, and asking whether a guess was enough waits for it
        for guess in _NUCLEUS_GUESSES:
            if guess < probs.shape[0]:
                ranked, order = torch.topk(probs, guess)
                if float(ranked.sum()) >= total:
                    return ranked, order
    ranked, order = torch.sort(probs, descending=True)
    return ranked, order


def sample(
    logits: torch.Tensor, sampling: Sampling, *, generator: torch.Generator, seen: torch.Tensor | None = None
) -> torch.Tensor:
    """Choose the next token.

    Args:
        logits: (V,), any float type, on any device.
        sampling: Complete settings.
        generator: On the CPU, so that a seed means the same on every device. Untouched by greedy decoding.
        seen: (V,) bool, for the repetition penalty; ``None`` when that is 1.

    Returns:
        () int64 on the device of the logits.
    """
    logits = logits.float()
    if seen is not None:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.greedy:
        return logits.argmax(-1)
    probs, ids = distribution(logits, sampling)
    # Inverse of the cumulative distribution: one random number per token, whatever the vocabulary. In float64, as
    # 100,000 float32 summands lose the tail.
    if probs.device.type == "mps":  # has no float64
        probs = probs.cpu()
    cumulative = probs.double().cumsum(-1)
    point = torch.rand((), generator=generator, dtype=torch.float64).to(cumulative.device) * cumulative[-1]
    index = torch.searchsorted(cumulative, point, right=True).clamp(max=probs.shape[0] - 1)
    return (index if ids is None else ids[index]).to(logits.device)


class Sampler:
    """Sampling settings with what they need from token to token."""

    def __init__(self, sampling: Sampling, seed: int | None, prompt_ids: Sequence[int], logits: torch.Tensor) -> None:
        """Begin a reply.

        Args:
            sampling: Complete settings.
            seed: Of the random numbers; ``None`` is a fresh one.
            prompt_ids: (T,), counted by the repetition penalty.
            logits: (V,), any: their size and device are what those to come have.
        """
        self._sampling = sampling
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._seen: torch.Tensor | None = None
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(logits.shape[0], dtype=torch.bool, device=logits.device)
            self._seen[torch.tensor(prompt_ids, device=logits.device)] = True

    @torch.inference_mode()
    def next(self, logits: torch.Tensor) -> torch.Tensor:
        """The next token () from logits (V,)."""
        token = sample(logits, self._sampling, generator=self._generator, seen=self._seen)
        if self._seen is not None:
            self._seen[token] = True
        return token
