"""Decoding: tokens a second of the transformers engine against ``model.generate`` with a streamer, same weights.

The model is the same object, so the only difference is the loop around it. In NF4 the peer is the layer as bitsandbytes
computes it, and ours keeps dequantised copies where memory allows, as every load does.

    python -m benchmarks decode [--quick]
"""

from __future__ import annotations

import threading
import time
from typing import Any

from benchmarks.peers import open_model, row, take_turns
from llmmagic.core.config import GenerationConfig
from llmmagic.core.events import GenerationFinished
from llmmagic.core.operation import CancelToken

TOKENS, QUICK_TOKENS, RUNS = 48, 8, 5
PROMPT = "Explain in a few sentences how a vaccine works."
CASES = (("float32", "none", 1.05), ("bfloat16", "none", 1.2), ("float32", "nf4", 1.05))


def ours(opened: Any, prompt_ids: list[int], tokens: int) -> float:
    """Tokens a second of the engine, from the first token on."""
    opened.engine.reset()
    config = GenerationConfig(max_new_tokens=tokens, temperature=0)
    *_, finished = opened.engine.generate(prompt_ids, config, CancelToken())
    assert isinstance(finished, GenerationFinished)
    return finished.stats.tokens_per_s


def generate(opened: Any, prompt_ids: list[int], tokens: int) -> float:
    """Tokens a second of ``model.generate`` with a streamer, from the first token on."""
    import torch
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(opened.loaded.tokenizer, skip_prompt=True)
    ids = torch.tensor([prompt_ids])
    settings = {"max_new_tokens": tokens, "do_sample": False, "streamer": streamer}
    thread = threading.Thread(
        target=opened.loaded.model.generate, args=(ids,), kwargs={**settings, "attention_mask": torch.ones_like(ids)}
    )
    thread.start()
    stamps = [time.perf_counter() for _ in streamer]
    thread.join()
    # One stamp a token but the last, which is the end of the stream.
    return (len(stamps) - 2) / (stamps[-2] - stamps[0])


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model and few tokens: shows that it runs, not how fast.

    Returns:
        A row for each dtype and quantisation.
    """
    model_id, tokens, runs = ("tiny-random", QUICK_TOKENS, 1) if quick else ("demo", TOKENS, RUNS)
    rows = []
    for dtype, quantization, target in CASES:
        mine = open_model(model_id, dtype=dtype, quantization=quantization)
        peer = open_model(model_id, dtype=dtype, quantization=quantization, dense_copy="off")
        prompt_ids = mine.template.encode([{"role": "user", "content": PROMPT}])
        figures = take_turns(
            lambda m=mine, ids=prompt_ids: ours(m, ids, tokens),
            lambda p=peer, ids=prompt_ids: generate(p, ids, tokens),
            runs,
        )
        name = f"decode, transformers engine, {dtype}{'' if quantization == 'none' else ' ' + quantization}"
        rows.append(row(name, "tok/s", *figures, "model.generate with a streamer", target, "higher"))
    return rows
