"""Time to first token in the tenth turn of a conversation with about 2,000 tokens of history.

Ours reads only what is new, because the KV cache of the last turn is still there. The peer does what
``pipeline("text-generation")`` does at every turn: it reads the whole prompt again. Same weights, same prompt.

    python -m benchmarks ttft [--quick]
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.peers import open_model, row, take_turns
from llmmagic.core.config import GenerationConfig
from llmmagic.core.events import TextDelta
from llmmagic.core.operation import CancelToken

TURNS, RUNS, TARGET = 10, 5, 0.05
HISTORY_TOKENS, QUICK_HISTORY_TOKENS = 2000, 400


def history(opened: Any, tokens: int) -> list[dict[str, str]]:
    """Nine turns of about so many tokens in total."""
    messages: list[dict[str, str]] = []
    words = "The heart pumps blood through the lungs and the body and rests between two beats."
    per_message = max(1, tokens // (2 * (TURNS - 1)) // opened.template.count(words))
    for number in range(TURNS - 1):
        messages.append({"role": "user", "content": f"Question {number}. " + words * per_message})
        messages.append({"role": "assistant", "content": f"Answer {number}. " + words * per_message})
    return messages


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model and a short history: shows that it runs, not how fast.

    Returns:
        One row: medians in seconds, and their ratio.
    """
    import torch

    model_id, tokens, runs = ("tiny-random", QUICK_HISTORY_TOKENS, 1) if quick else ("demo", HISTORY_TOKENS, RUNS)
    opened = open_model(model_id, quantization="none", dtype="float32")
    messages = history(opened, tokens)
    config = GenerationConfig(max_new_tokens=1, temperature=0)
    turns = iter(range(10**6))

    def warm() -> list[int]:
        """The state after nine turns, then a prompt that nobody has seen."""
        list(opened.engine.generate(opened.template.encode(messages), config, CancelToken()))
        new = [*messages, {"role": "user", "content": f"And what about number {next(turns)}?"}]
        ids: list[int] = opened.template.encode(new)
        return ids

    def ours() -> float:
        prompt_ids = warm()
        start = time.perf_counter()
        for event in opened.engine.generate(prompt_ids, config, CancelToken()):
            if isinstance(event, TextDelta):
                return time.perf_counter() - start
        raise AssertionError("no token came")

    def peer() -> float:
        prompt_ids = torch.tensor([warm()])
        start = time.perf_counter()
        opened.loaded.model.generate(
            prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=1, do_sample=False
        )
        return time.perf_counter() - start

    length = len(opened.template.encode(messages))
    name = f"time to first token, turn {TURNS} at {length:,} tokens of history"
    return [row(name, "s", *take_turns(ours, peer, runs), "full re-read", TARGET, "lower")]
