"""Time to first token in the tenth turn of a conversation with about 2,000 tokens of history.

Ours reads only what is new, because the KV cache of the last turn is still there. The peer is Transformers'
``pipeline("text-generation")``, which reads the whole prompt again at every turn. Same weights, same messages.

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
    from transformers import pipeline

    model_id, tokens, runs = ("tiny-random", QUICK_HISTORY_TOKENS, 1) if quick else ("demo", HISTORY_TOKENS, RUNS)
    opened = open_model(model_id, quantization="none", dtype="float32")
    messages = history(opened, tokens)
    config = GenerationConfig(max_new_tokens=1, temperature=0)
    turns = iter(range(10**6))

    read_again = pipeline("text-generation", model=opened.loaded.model, tokenizer=opened.loaded.tokenizer)

    def next_turn() -> list[dict[str, str]]:
        """Nine turns and a question that nobody has seen; the engine is where it is after the nine."""
        list(opened.engine.generate(opened.template.encode(messages), config, CancelToken()))
        return [*messages, {"role": "user", "content": f"And what about number {next(turns)}?"}]

    def ours() -> float:
        prompt_ids = opened.template.encode(next_turn())
        start = time.perf_counter()
        for event in opened.engine.generate(prompt_ids, config, CancelToken()):
            if isinstance(event, TextDelta):
                return time.perf_counter() - start
        raise AssertionError("no token came")

    def peer() -> float:
        said = next_turn()
        start = time.perf_counter()
        read_again(said, max_new_tokens=1, do_sample=False)
        return time.perf_counter() - start

    length = len(opened.template.encode(messages))
    name = f"time to first token, turn {TURNS} at {length:,} tokens of history"
    return [row(name, "s", *take_turns(ours, peer, runs), "full re-read (`pipeline`)", TARGET, "lower")]
