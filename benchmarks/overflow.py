"""Time to first token in the turn after an overflow, against the turn before it.

A conversation is carried on until its window is full and the oldest turns fall out. What is left then begins with other
tokens than what the KV cache holds; the session reads it ahead in the idle time after the reply before. Both times are
of the same conversation, with a pause for that between any two turns, as a person makes one.

    python -m benchmarks overflow [--quick]
"""

from __future__ import annotations

from benchmarks.peers import row
from llmmagic import GenerationConfig, Session
from llmmagic.core.events import ChatFinished

WINDOW, QUICK_WINDOW, RUNS, TARGET = 1024, 500, 4, 1.5
GENERATION = GenerationConfig(max_new_tokens=32, temperature=0)
QUESTION = "Question {}: what should one know about the heart, the lungs and the blood, and what keeps them well?"


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model and one overflow: shows that it runs, not how fast.

    Returns:
        One row: medians in seconds, and their ratio.
    """
    model_id, window, runs = ("tiny-random", QUICK_WINDOW, 1) if quick else ("demo", WINDOW, RUNS)
    session = Session()
    session.load(model_id, engine="transformers", quantization="none", dtype="float32", max_context=window).wait()
    after: list[float] = []
    before: list[float] = []
    last, number = 0.0, 0
    while len(after) < runs:
        question = QUESTION.format(number)
        overflows = bool(session.window(draft=question, generation=GENERATION).newly_dropped_turns)
        finished = session.chat(question, generation=GENERATION).wait()
        assert isinstance(finished, ChatFinished)
        first_s = finished.stats.time_to_first_token_s
        if overflows:
            after.append(first_s)
            before.append(last)
        last, number = first_s, number + 1
        session.finish_idle()
    session.close()
    name = f"time to first token, the turn after an overflow of {window:,} tokens"
    return [row(name, "s", after, before, "the turn before it", TARGET, "lower")]
