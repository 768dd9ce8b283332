"""Opening a conversation of 10,000 messages in the app: from the stored conversation to its last screen drawn.

The peer is the same data as Textual widgets, one ``Static`` a message, which is how chat apps usually do it.

    python -m benchmarks tui_open [--quick]
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

os.environ["TEXTUAL_ANIMATIONS"] = "none"

from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from benchmarks.peers import time_row
from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic_tui.themes import DARK
from llmmagic_tui.widgets.transcript import Transcript

MESSAGES, QUICK_MESSAGES, RUNS, PAGES, PEER_PAGES = 10_000, 1_000, 5, 40, 5
OPEN_TARGET_S, PAGE_TARGET_S = 0.3, 0.1
SIZE = (120, 40)


def fill(store: ConversationStore, count: int) -> str:
    """Write a conversation; returns its id."""
    source = random.Random(3)
    conversation = Conversation()
    for number in range(count):
        words = " ".join("word" * source.randint(1, 3) for _ in range(source.randint(3, 90)))
        text = f"{words}\n\n- **{number}**\n- `code`\n" if number % 2 else words
        conversation.add("assistant" if number % 2 else "user", text, finish_reason="stop" if number % 2 else None)
    store.save(conversation.head, list(conversation))
    return conversation.id


class Ours(App[None]):
    """The transcript of the app."""

    def compose(self) -> ComposeResult:
        """What is measured."""
        self.register_theme(DARK)
        self.theme = DARK.name
        yield Transcript()


class Peer(App[None]):
    """A widget for every message."""

    def compose(self) -> ComposeResult:
        """What is measured."""
        yield VerticalScroll()


async def drawn(app: App[None]) -> None:
    """Wait until what was changed is on screen."""
    event = asyncio.Event()
    app.call_after_refresh(event.set)
    await event.wait()


async def page_up_s(app: App[None], widget: Widget, pages: int) -> float:
    """Seconds to go up a page: the 95th percentile."""
    taken = []
    for _ in range(pages):
        began = time.perf_counter()
        widget.scroll_relative(y=-SIZE[1], animate=False)
        await drawn(app)
        taken.append(time.perf_counter() - began)
    return statistics.quantiles(taken, n=20)[-1]


async def ours(store: ConversationStore, conversation_id: str) -> tuple[float, float]:
    """Seconds to open, and to go up a page."""
    app = Ours()
    async with app.run_test(size=SIZE):
        transcript = app.query_one(Transcript)
        began = time.perf_counter()
        conversation = store.load(conversation_id)
        transcript.show(conversation.path(), conversation.branch)
        await drawn(app)
        opened = time.perf_counter() - began
        return opened, await page_up_s(app, transcript, PAGES)


async def peer(store: ConversationStore, conversation_id: str) -> tuple[float, float]:
    """The same with widgets."""
    app = Peer()
    async with app.run_test(size=SIZE):
        began = time.perf_counter()
        scroll = app.query_one(VerticalScroll)
        await scroll.mount_all(Static(m.content, markup=False) for m in store.load(conversation_id).path())
        scroll.scroll_end(animate=False)
        await drawn(app)
        opened = time.perf_counter() - began
        return opened, await page_up_s(app, scroll, PEER_PAGES)


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: A tenth of the messages.

    Returns:
        Two rows: opening, and going up a page.
    """
    count, runs = (QUICK_MESSAGES, 2) if quick else (MESSAGES, RUNS)
    with tempfile.TemporaryDirectory() as folder, ConversationStore(Path(folder) / "benchmark.db") as store:
        conversation_id = fill(store, count)
        opened = [asyncio.run(ours(store, conversation_id)) for _ in range(runs)]
        widgets_s = asyncio.run(peer(store, conversation_id))  # once: it takes long, and is far away
    open_s, page_s = (statistics.median(figures) for figures in zip(*opened, strict=True))
    name = f"open a conversation of {count:,} messages"
    peer_name = "a Static for every message"
    return [
        time_row(name, open_s, OPEN_TARGET_S, peer_name, widgets_s[0], runs),
        time_row("page up in it, p95", page_s, PAGE_TARGET_S, peer_name, widgets_s[1], runs),
    ]
