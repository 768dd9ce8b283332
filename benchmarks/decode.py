"""Decoding: tokens a second of the transformers engine against ``model.generate`` with a streamer, same weights.

The weights are the same, and ours does without guesses here, so the only difference is the loop around it. In NF4 the
peer is the layer as bitsandbytes computes it, and ours keeps dequantised copies where memory allows, as each load does.
The last row is the engine as it is, beside itself without guesses: these let one pass of the model confirm several
tokens of a text that repeats itself.

    python -m benchmarks decode [--quick]
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers import open_model, row, streamed_tokens_per_s, take_turns
from llmmagic.core.config import GenerationConfig
from llmmagic.core.events import GenerationFinished
from llmmagic.core.operation import CancelToken

TOKENS, QUICK_TOKENS, RUNS = 48, 8, 5
PROMPT = "Explain in a few sentences how a vaccine works."
REPEAT = "Say this again, word by word, three times: " + "the heart pumps blood through the lungs and the body. " * 3
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

    ids = torch.tensor([prompt_ids])
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": tokens, "do_sample": False}
    model, tokenizer = opened.loaded.model, opened.loaded.tokenizer
    return streamed_tokens_per_s(lambda streamer: model.generate(ids, streamer=streamer, **settings), tokenizer)


def without_guesses(opened: Any) -> Any:
    """The same model, whose engine feeds one token after the other."""
    from llmmagic.core.engines.transformers import TransformersEngine

    opened.engine = TransformersEngine(opened.loaded, drafts=False)
    return opened


def drafting(model_id: str, tokens: int, runs: int) -> dict[str, object]:
    """The engine against itself without guesses, on an answer that repeats what stands in the prompt."""
    mine = open_model(model_id, dtype="float32", quantization="none")
    peer = without_guesses(open_model(model_id, dtype="float32", quantization="none"))
    prompt_ids = mine.template.encode([{"role": "user", "content": REPEAT}])
    figures = take_turns(lambda: ours(mine, prompt_ids, tokens), lambda: ours(peer, prompt_ids, tokens), runs)
    return row(
        "decode, transformers engine, a repetitive answer", "tok/s", *figures, "the same without guesses", 1.3, "higher"
    )


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model and few tokens: shows that it runs, not how fast.

    Returns:
        A row for each dtype and quantisation, and one for guesses.
    """
    model_id, tokens, runs = ("tiny-random", QUICK_TOKENS, 1) if quick else ("demo", TOKENS, RUNS)
    rows = []
    for dtype, quantization, target in CASES:
        mine = without_guesses(open_model(model_id, dtype=dtype, quantization=quantization))
        peer = open_model(model_id, dtype=dtype, quantization=quantization, dense_copy="off")
        prompt_ids = mine.template.encode([{"role": "user", "content": PROMPT}])
        figures = take_turns(
            lambda m=mine, ids=prompt_ids: ours(m, ids, tokens),
            lambda p=peer, ids=prompt_ids: generate(p, ids, tokens),
            runs,
        )
        name = f"decode, transformers engine, {dtype}{'' if quantization == 'none' else ' ' + quantization}"
        rows.append(row(name, "tok/s", *figures, "model.generate with a streamer", target, "higher"))
    return [*rows, drafting(model_id, tokens, runs)]
