"""Counting a draft: what each key press costs while the context window is shown, in a conversation of a hundred turns.

Beside it, in the same run: what one would do without the window, rendering and encoding all of it with Transformers'
``apply_chat_template``, which gives the ids but does not say whose they are.

    python -m benchmarks window [--quick]
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from benchmarks.peers import time_row
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.chat.window import ContextWindow
from llmmagic.core.models.tiny import make_tokenizer

TURNS, WORDS = 100, 25
TARGET_S = 0.01
KEYS, QUICK_KEYS = 200, 20


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: Fewer keys: to see that it works.

    Returns:
        Rows: medians, and their ratios to the peer's.
    """
    keys = QUICK_KEYS if quick else KEYS
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 1_000_000  # or it warns
    template = ChatTemplate.from_tokenizer(tokenizer)
    chance = random.Random(0)
    talk = Conversation()
    for _ in range(TURNS):
        for role in ("user", "assistant"):
            words = [chance.choice(["some", "words", "of", "a", "message"]) for _ in range(WORDS)]
            talk.add(role, " ".join(words))  # type: ignore[arg-type]
    said = [{"role": message.role, "content": message.content} for message in talk.path()]
    rows = []
    for name, limit in (("all of it fits", 100_000), ("most of it is dropped", 4_000)):
        window = ContextWindow(template, limit)
        plan = window.plan(talk, draft="a", reserve_tokens=200)
        kept = said if plan.report.dropped_message_ids == () else plan.messages[:-1]
        ours, theirs = _type(
            lambda draft, window=window: window.plan(talk, draft=draft, reserve_tokens=200),
            lambda draft, kept=kept: tokenizer.apply_chat_template(
                [*kept, {"role": "user", "content": draft}], add_generation_prompt=True, tokenize=True
            ),
            keys,
        )
        tokens = plan.report.prompt_tokens
        label = f"a key press in {TURNS} turns, {name} ({tokens:,} tokens)"
        rows.append(time_row(label, ours, TARGET_S, "apply_chat_template of what is kept", theirs, keys))
    return rows


def _type(ours: Callable[[str], object], theirs: Callable[[str], object], keys: int) -> tuple[float, float]:
    """Type a draft letter by letter, by turns with the peer; medians in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    draft = ""
    for i in range(keys):
        draft += "the draft grows "[i % 16]
        for work, taken in zip((ours, theirs), times, strict=True):
            begin = time.perf_counter()
            work(draft)
            taken.append(time.perf_counter() - begin)
    return statistics.median(times[0]), statistics.median(times[1])
