"""The app with its model in a process of its own, as it is used."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys

import pytest

from tests.tui.app.helpers import LONG, chat_app


async def test_the_first_message_waits_the_model_dies_and_comes_back(keys_at_once: None) -> None:
    async with chat_app(worker=True, load=False, generation=LONG) as chat:
        screen = chat.screen
        await chat.until(lambda: screen.panes[0].conversation is not None)
        # While it loads: a message waits, is taken back, and waits again.
        await chat.press(*"one", "enter")
        assert screen.waiting
        assert "model is ready" in str(screen.composer.border_title)
        await chat.press("escape")
        assert not screen.waiting
        assert screen.composer.text == "one"
        await chat.press("enter")
        await chat.until(lambda: screen.status.status.activity == "writing", timeout_s=90)
        # A second one waits for the reply to end.
        await chat.press(*"two", "enter")
        assert screen.waiting
        assert "reply has ended" in str(screen.composer.border_title)
        await chat.press("escape")
        await chat.until(lambda: len(chat.messages) == 4 and screen.status.status.activity == "writing")
        assert [text for role, text in chat.messages if role == "user"] == ["one", "two"]
        # What is shown is what the model's process takes, and not the weights alone.
        used, weights = screen.status.status.memory_bytes, screen.status.status.info.memory_bytes
        assert used is not None
        assert used > 50 * weights > 0
        # The model dies in the middle of the second reply.
        pid = screen.backend.session._opened.engine.pid  # type: ignore[union-attr]
        os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        await chat.until(lambda: screen.dead)
        assert any("F9 starts the model again" in notice for notice in chat.notices)
        assert chat.path[-1].finish_reason == "cancelled"
        assert "stopped before its end" in chat.text()
        # What is sent now starts it again.
        await chat.press(*"three", "enter")
        await chat.until(lambda: len(chat.messages) == 6, timeout_s=90)
        assert not screen.dead
        assert chat.messages[4] == ("user", "three")


def test_the_app_imports_no_torch(environment: dict[str, str]) -> None:
    code = (
        "import asyncio, sys\n"
        "from llmmagic_tui.app import ChatApp\n"
        "from llmmagic_tui.settings import Settings\n"
        "async def main():\n"
        "    app = ChatApp(Settings(model='tiny-random'))\n"
        "    async with app.run_test() as pilot:\n"
        "        while not app.backend.is_ready: await pilot.pause(0.05)\n"
        "        app.screen.composer.text = 'hi'\n"
        "        await pilot.press('enter')\n"
        "        while len(app.screen.active.transcript.messages) < 2 or app.screen.running: await pilot.pause(0.05)\n"
        "        await pilot.press('f2')\n"
        "asyncio.run(main())\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


async def test_garbage_is_collected_again_once_the_first_frame_is_drawn() -> None:
    gc.disable()  # as the command line does
    try:
        async with chat_app(load=False) as chat:
            await chat.until(gc.isenabled)
            assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
        gc.enable()


pytestmark = pytest.mark.timeout(240)
