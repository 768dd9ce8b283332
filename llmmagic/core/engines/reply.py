"""Puts a reply together from its tokens and takes its times, the same way for every engine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from llmmagic.core.events import FinishReason, GenerationFinished, GenerationStats, TextDelta, TokenLogprobs


@dataclass
class Reply:
    """A reply as far as it got.

    Attributes:
        prompt_tokens: Length of its prompt.
        cached_tokens: How many of those were not read again.
        token_ids: What was generated so far.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    _texts: list[str] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)
    _first: float | None = None

    def add(self, token_id: int | None, text: str, logprobs: TokenLogprobs | None = None) -> TextDelta:
        """Add a token and the text that became certain with it; without a token: text that was held back."""
        if self._first is None:
            self._first = time.perf_counter()
        self._texts.append(text)
        if token_id is None:
            return TextDelta(text)
        self.token_ids.append(token_id)
        return TextDelta(text, (token_id,), () if logprobs is None else (logprobs,))

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._texts)

    def finished(
        self, reason: FinishReason, *, completion_tokens: int | None = None, exact: bool = True
    ) -> GenerationFinished:
        """The last event.

        Args:
            reason: Why it ended.
            completion_tokens: How many tokens it has, where they did not come one by one.
            exact: Whether that was counted.
        """
        tokens = len(self.token_ids) if completion_tokens is None else completion_tokens
        now = time.perf_counter()
        first = self._first if self._first is not None else now
        after_first = tokens - 1
        stats = GenerationStats(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            completion_tokens=tokens,
            time_to_first_token_s=first - self._start,
            duration_s=now - self._start,
            tokens_per_s=after_first / (now - first) if after_first > 0 and now > first else 0.0,
            exact=exact,
        )
        return GenerationFinished(self.text, tuple(self.token_ids), reason, stats)
