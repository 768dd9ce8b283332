"""The last line: the keys that work where the focus is, and the mouse in their place."""

from __future__ import annotations

import pytest

from llmmagic_tui.widgets.key_bar import KeyBar
from tests.tui.app.helpers import Chat, chat_app


def shown(chat: Chat) -> str:
    return chat.screen.query_one(KeyBar).render().plain


async def test_it_follows_the_focus() -> None:
    async with chat_app(size=(140, 30)) as chat:
        assert "Send" in shown(chat)
        assert "Pin" not in shown(chat)
        await chat.send("Hello")
        await chat.press("escape")  # to the transcript
        await chat.settled()
        assert "Pin" in shown(chat)
        assert "Send" not in shown(chat)


async def test_keys_that_were_changed_are_shown_as_they_are() -> None:
    async with chat_app(keys={"help": "ctrl+g"}) as chat:
        assert " ^g Help " in shown(chat)
        assert "f1" not in shown(chat)


@pytest.mark.parametrize("width", [80, 40, 20])
async def test_no_key_is_cut_in_two(width: int) -> None:
    async with chat_app(size=(140, 30)) as chat:
        whole = shown(chat)
        await chat.pilot.resize_terminal(width, 20)
        await chat.settled()
        line = shown(chat)
        assert len(line) <= width
        assert whole.startswith(line)
        assert line.endswith(" ") or not line


async def test_a_click_is_as_good_as_the_key() -> None:
    async with chat_app() as chat:
        place = shown(chat).index("Help")
        await chat.pilot.click(KeyBar, offset=(place, 0))
        await chat.settled()
        assert type(chat.app.screen).__name__ == "HelpScreen"
