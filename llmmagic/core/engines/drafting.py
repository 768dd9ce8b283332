"""Guessing the next tokens from the text so far, so that one pass of the model can confirm several of them.

An answer that quotes the question, goes through a list or repeats code says again what stands in the prompt or in
itself. Where the last tokens occurred before, what followed them there is fed together with the newest token ("prompt
lookup", https://github.com/apoorvumang/prompt-lookup-decoding). Each token is still chosen from the model's own logits
by the sampler, in order, with a random number of its own: a guess decides how soon a token comes, never which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

_NGRAM_TOKENS = 3
_FIRST_GUESS, _LONGEST_GUESS = 4, 16
_WORTH = 2
"""A pass over several tokens takes up to two and a half times as long as one over a single token (measured on a CPU in
float32, nearly whatever their number): with fewer of its guesses right, it was a loss."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 16, 256


class Feeder(Protocol):
    """Feeds tokens to a model with a KV cache."""

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """Feed tokens (t,); returns the logits (t, V) after each of them."""
        ...

    def forget(self, count: int) -> None:
        """Take the last tokens out of the KV cache again."""
        ...


class NgramLookup:
    """Finds where the last tokens occurred before, and what came then."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        """Read what there is.

        Args:
            token_ids: (T,).
        """
        self._ids: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # where the newest occurrence of these tokens ends, but the last
        self._waiting: tuple[int, ...] | None = None
        for token_id in token_ids:
            self.add(token_id)

    def add(self, token_id: int) -> None:
        """Go on by one token."""
        if self._waiting is not None:  # only now: an occurrence that nothing follows yet tells nothing
            self._after[self._waiting] = len(self._ids)
        self._ids.append(token_id)
        self._waiting = tuple(self._ids[-_NGRAM_TOKENS:]) if len(self._ids) >= _NGRAM_TOKENS else None

    def guess(self, count: int) -> list[int]:
        """What followed the last tokens where they last occurred before: so many tokens, or none."""
        where = None if self._waiting is None else self._after.get(self._waiting)
        if where is None:
            return []
        period = len(self._ids) - where  # text that repeats itself is taken to go on doing so
        return [self._ids[where + i % period] for i in range(count)]


class DraftingFeeder:
    """Feeds one token after the other, with guesses beside it where they have been right.

    It stops guessing for a while when guesses are wrong, and longer each time: text that does not repeat itself costs a
    pass or two.
    """

    def __init__(self, feeder: Feeder, prompt_ids: Sequence[int], limit: int) -> None:
        """Begin a reply.

        Args:
            feeder: Of the model.
            prompt_ids: (T,), in the KV cache already.
            limit: Tokens that the reply can have.
        """
        self._feeder = feeder
        self._lookup = NgramLookup(prompt_ids)
        self._left = limit
        self._guess: list[int] = []  # fed, and not yet confirmed
        self._rows: torch.Tensor | None = None  # (t, V): the logits after each token of the last pass
        self._right = 0  # how many guesses of the last pass were
        self._length = _FIRST_GUESS
        self._pause = _SHORTEST_PAUSE
        self._paused = 0
        self.passes = 0

    def step(self, token_id: int) -> torch.Tensor:
        """Feed one token and get the logits (V,) after it."""
        self._lookup.add(token_id)
        self._left -= 1
        if self._guess and self._rows is not None:
            if self._guess[0] == token_id:  # it is in the KV cache already
                del self._guess[0]
                self._right += 1
                row = self._rows[self._right]
                if not self._guess:
                    self._learn(all_right=True)
                return row
            self.settle()
            self._learn(all_right=False)
        return self._pass(token_id)

    def _pass(self, token_id: int) -> torch.Tensor:
        self._paused = max(0, self._paused - 1)
        # The last token of a reply is never fed.
        guess = [] if self._paused else self._lookup.guess(min(self._length, self._left - 1))
        rows = self._feeder.feed([token_id, *guess])
        self._guess, self._rows, self._right = guess, rows, 0
        self.passes += 1
        return rows[0]

    def _learn(self, *, all_right: bool) -> None:
        if all_right:
            self._length = min(2 * self._length, _LONGEST_GUESS)
        if self._right >= _WORTH:
            self._pause = _SHORTEST_PAUSE
        else:
            self._length = _FIRST_GUESS
            self._paused, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)

    def settle(self) -> None:
        """Take guesses that were not confirmed out of the KV cache: it then holds the prompt and what was said."""
        wrong, self._guess = len(self._guess), []
        if wrong:
            self._feeder.forget(wrong)
