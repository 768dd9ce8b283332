"""Opening a conversation of 10,000 messages in the app: from the stored conversation to its last screen drawn.

The peer is the same data as Textual widgets, one ``Static`` a message, which is how chat apps usually do it.

    python benchmarks/tui_open.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["TEXTUAL_ANIMATIONS"] = "none"

from textual.app import App, ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic_tui.themes import DARK
from llmmagic_tui.widgets.transcript import Transcript

MESSAGES, QUICK_MESSAGES, RUNS, PAGES = 10_000, 1_000, 5, 40
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


async def ours(store: ConversationStore, conversation_id: str) -> tuple[float, float]:
    """Seconds to open, and to go up a page (95th percentile)."""
    app = Ours()
    async with app.run_test(size=SIZE):
        transcript = app.query_one(Transcript)
        began = time.perf_counter()
        conversation = store.load(conversation_id)
        transcript.show(conversation.path(), conversation.branch)
        await drawn(app)
        opened = time.perf_counter() - began
        pages = []
        for _ in range(PAGES):
            began = time.perf_counter()
            transcript.scroll_relative(y=-SIZE[1], animate=False)
            await drawn(app)
            pages.append(time.perf_counter() - began)
    return opened, statistics.quantiles(pages, n=20)[-1]


async def peer(store: ConversationStore, conversation_id: str) -> float:
    """Seconds to open as widgets."""
    app = Peer()
    async with app.run_test(size=SIZE):
        began = time.perf_counter()
        scroll = app.query_one(VerticalScroll)
        await scroll.mount_all(Static(m.content, markup=False) for m in store.load(conversation_id).path())
        scroll.scroll_end(animate=False)
        await drawn(app)
        return time.perf_counter() - began


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: A tenth of the messages.

    Returns:
        Two rows: opening, and going up a page.
    """
    with tempfile.TemporaryDirectory() as folder, ConversationStore(Path(folder) / "benchmark.db") as store:
        conversation_id = fill(store, QUICK_MESSAGES if quick else MESSAGES)
        runs = [asyncio.run(ours(store, conversation_id)) for _ in range(2 if quick else RUNS)]
        widgets_s = asyncio.run(peer(store, conversation_id))
    open_s, page_s = statistics.median(each[0] for each in runs), statistics.median(each[1] for each in runs)
    return [
        {
            "benchmark": "open a conversation",
            "unit": "s",
            "ours": round(open_s, 3),
            "peer": round(widgets_s, 3),
            "peer_name": "a Static for every message",
            "ratio": round(open_s / widgets_s, 4),
            "target": f"<= {OPEN_TARGET_S} s",
            "passed": open_s <= OPEN_TARGET_S,
        },
        {
            "benchmark": "page up, p95",
            "unit": "s",
            "ours": round(page_s, 3),
            "target": f"<= {PAGE_TARGET_S} s",
            "passed": page_s <= PAGE_TARGET_S,
        },
    ]


def main() -> int:
    """Print the figures; status 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages")
    rows = run(parser.parse_args().quick)
    for row in rows:
        print(" ".join(f"{key}={value}" for key, value in row.items()))
    return 0 if all(row["passed"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
