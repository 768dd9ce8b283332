"""Streaming on screen: how many tokens a second the transcript renders, beside Textual's own Markdown widget.

2,000 tokens of Markdown (headings, prose, lists, highlighted code) are fed in batches as the app feeds them, 20 times a
second's worth of a fast model; each batch is drawn to its end before the next one. The peer is ``Markdown`` with the
stream that Textual offers for this, given the same batches.

    python -m benchmarks tui_stream [--quick]
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable

os.environ["TEXTUAL_ANIMATIONS"] = "none"

from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Markdown

from benchmarks.peers import bound_row, take_turns
from llmmagic.core.chat.messages import Message
from llmmagic_tui.themes import DARK
from llmmagic_tui.widgets.transcript import Transcript

TOKENS, QUICK_TOKENS, BATCH = 2_000, 400, 50
RUNS, QUICK_RUNS = 3, 1
TARGET_TOKENS_PER_S = 1_000
SIZE = (120, 40)
PART = """## Sorting, part {n}

Use **sorted** for a new list, or `list.sort` in place; both take a key, and both are stable, so that equal
items keep their order.

```python
def by_length(words: list[str], part: int = {n}) -> list[str]:
    return sorted(words, key=len)  # shortest first
```

- it is stable
- it takes `key` and `reverse`

"""


def make_tokens(count: int) -> list[str]:
    """Pieces of four characters: about what a token is."""
    text, number = "", 0
    while len(text) < 4 * count:
        text += PART.format(n=number)
        number += 1
    return [text[start : start + 4] for start in range(0, 4 * count, 4)]


class Ours(App[None]):
    """The transcript of the app."""

    def compose(self) -> ComposeResult:
        """What is measured."""
        self.register_theme(DARK)
        self.theme = DARK.name
        yield Transcript()


class Peer(App[None]):
    """Textual's Markdown in a scrolling container."""

    def compose(self) -> ComposeResult:
        """What is measured."""
        with VerticalScroll():
            yield Markdown()


async def stream(app: App[None], tokens: list[str], write: Callable[[str], Awaitable[None]]) -> float:
    """Feed the tokens and draw each batch; returns the seconds it took."""
    began = time.perf_counter()
    for start in range(0, len(tokens), BATCH):
        await write("".join(tokens[start : start + BATCH]))
        drawn = asyncio.Event()
        app.call_after_refresh(drawn.set)
        await drawn.wait()
    return time.perf_counter() - began


async def ours_s(tokens: list[str]) -> float:
    """Seconds that the transcript takes."""
    app = Ours()
    async with app.run_test(size=SIZE) as pilot:
        transcript = app.query_one(Transcript)
        transcript.show([Message(id="reply", role="assistant", content="")], lambda _: (1, 1))
        transcript.resume_reply("reply")
        await pilot.pause()

        async def write(text: str) -> None:
            transcript.stream(text)

        return await stream(app, tokens, write)


async def peer_s(tokens: list[str]) -> float:
    """Seconds that Textual's Markdown takes."""
    app = Peer()
    async with app.run_test(size=SIZE) as pilot:
        markdown = app.query_one(Markdown)
        app.query_one(VerticalScroll).anchor()
        await pilot.pause()

        async def write(text: str) -> None:
            await markdown.append(text)

        return await stream(app, tokens, write)


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: Fewer tokens.

    Returns:
        One row: tokens a second, drawn.
    """
    tokens = make_tokens(QUICK_TOKENS if quick else TOKENS)
    asyncio.run(ours_s(tokens[: 2 * BATCH]))  # imports
    runs = QUICK_RUNS if quick else RUNS
    rates = take_turns(
        lambda: len(tokens) / asyncio.run(ours_s(tokens)), lambda: len(tokens) / asyncio.run(peer_s(tokens)), runs
    )
    ours, peer = (statistics.median(figures) for figures in rates)
    name = f"{len(tokens):,} tokens of Markdown streamed"
    return [bound_row(name, "tok/s", ours, peer, "Textual's Markdown", TARGET_TOKENS_PER_S, "higher", runs)]
