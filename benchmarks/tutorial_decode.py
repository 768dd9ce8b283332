"""Decoding as a user meets it: what ``llmchat`` takes by itself on a CPU, against the tutorial's recipe.

Ours is a session as the app makes one, model in a worker process and the engine left to it. The peer is what the
Llama-2 tutorials of 2023 do: NF4 with float16 compute, through ``pipeline("text-generation")``.

    python -m benchmarks tutorial_decode [--quick]
"""

from __future__ import annotations

from benchmarks.peers import model_folder, row, streamed_tokens_per_s, take_turns, tutorial_model
from llmmagic import GenerationConfig, Session
from llmmagic.core.events import ChatFinished

TOKENS, PEER_TOKENS, QUICK_TOKENS, RUNS, TARGET = 96, 24, 8, 3, 10
PROMPT = "Explain in a few sentences how a vaccine works."


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model and few tokens: shows that it runs, not how fast.

    Returns:
        One row.
    """
    from transformers import pipeline

    model_id, tokens, peer_tokens, runs = (
        ("tiny-random", QUICK_TOKENS, QUICK_TOKENS, 1) if quick else ("demo", TOKENS, PEER_TOKENS, RUNS)
    )
    model, tokenizer = tutorial_model(model_folder(model_id), "float16")
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
    said = [{"role": "user", "content": PROMPT}]
    session = Session(worker=True)
    session.load(model_id).wait()
    loaded = session.info
    assert loaded is not None

    def ours() -> float:
        generation = GenerationConfig(max_new_tokens=tokens, temperature=0)
        finished = session.chat(PROMPT, new=True, generation=generation).wait()
        assert isinstance(finished, ChatFinished)
        return finished.stats.tokens_per_s

    def peer() -> float:
        return streamed_tokens_per_s(
            lambda streamer: generator(said, max_new_tokens=peer_tokens, do_sample=False, streamer=streamer), tokenizer
        )

    figures = take_turns(ours, peer, runs)
    session.close()
    name = f"decode, `llmchat`'s default engine on this machine ({loaded.engine}, {loaded.quantization})"
    return [row(name, "tok/s", *figures, "tutorial recipe (NF4, float16 compute, `pipeline`)", TARGET, "higher")]
