"""Make the picture of llmchat in the README from the real thing: ``python docs/picture.py``.

The ``demo`` model answers in a small context window until older turns fall out of it; the picture is taken with one
more message typed and not yet sent.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from pathlib import Path

from llmmagic.core.config import GenerationConfig
from llmmagic_tui.app import ChatApp
from llmmagic_tui.screens.chat import ChatScreen
from llmmagic_tui.settings import Settings

TARGET = Path(__file__).parent / "images" / "llmchat.svg"
QUESTIONS = ("What is bursitis?", "How is it treated?", "And what is gout?", "Which foods should I avoid then?")
DRAFT = "What was the first thing I asked about?"


async def take() -> str:
    """Talk, and draw the screen as SVG."""
    generation = GenerationConfig(temperature=0, max_new_tokens=56)
    app = ChatApp(Settings(model="demo", context=288, generation=generation))
    async with app.run_test(size=(110, 34)) as pilot:
        screen = app.screen_stack[0]
        assert isinstance(screen, ChatScreen)

        async def settled() -> None:
            await pilot.pause(0.5)
            while not screen.backend.is_ready or screen.running is not None or screen.counting:
                await pilot.pause(0.2)

        await settled()
        for question in QUESTIONS:
            screen.composer.text = question
            await pilot.press("enter")
            await settled()
        screen.composer.text = DRAFT
        await settled()
        svg = app.export_screenshot(title="llmchat demo")
    # The reader's own monospaced font: looking at the picture asks no third party for one.
    return re.sub(r"@font-face\s*{.*?}", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace, Menlo, Consolas")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMMAGIC_DATA_DIR"] = folder  # not among the user's own conversations
        picture = asyncio.run(take())
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(picture, encoding="utf-8", newline="\n")
