"""Writing, sending, stopping, and what happens while the model is not ready."""

from __future__ import annotations

import pytest
from textual import events

from llmmagic.core.config import GenerationConfig
from llmmagic_tui.widgets.chat_pane import NEW_TITLE
from tests.tui.app.helpers import LONG, chat_app


async def test_a_message_gets_a_reply_and_both_are_stored() -> None:
    async with chat_app() as chat:
        await chat.press(*"Hello", "enter")
        await chat.until(lambda: len(chat.messages) == 2 and chat.screen.running is None)
        assert chat.messages[0] == ("user", "Hello")
        assert chat.screen.composer.text == ""
        summary = chat.screen.backend.store.list()[0]
        assert summary.title == "Hello"
        stored = chat.screen.backend.store.load(summary.id).path()
        assert [m.content for m in stored] == [content for _, content in chat.messages]
        status = chat.screen.status.status
        assert status.activity == "ready"
        assert status.time_to_first_token_s > 0
        assert "tiny-random" in chat.screen.status.render().plain


async def test_typed_ahead_keys_arrive_before_enter_sends() -> None:
    async with chat_app() as chat:
        # All keys at once, as a terminal delivers them when the app was busy.
        for key in [*"abc", "enter"]:
            chat.app.post_message(events.Key(key, key if len(key) == 1 else None))
        await chat.until(lambda: chat.messages and chat.screen.running is None)
        assert chat.messages[0] == ("user", "abc")


async def test_new_lines_and_empty_messages() -> None:
    async with chat_app() as chat:
        await chat.press("enter")
        assert chat.messages == []
        await chat.press("a", "ctrl+j", "b")
        assert chat.screen.composer.text == "a\nb"
        await chat.press("enter")
        await chat.until(lambda: chat.messages)
        assert chat.messages[0] == ("user", "a\nb")


async def test_up_and_down_go_through_what_was_sent() -> None:
    async with chat_app() as chat:
        await chat.send("first")
        await chat.send("second")
        await chat.press(*"draft", "up")
        assert chat.screen.composer.text == "second"
        await chat.press("up", "up")
        assert chat.screen.composer.text == "first"
        await chat.press("down", "down")
        assert chat.screen.composer.text == "draft"


async def test_a_large_paste_arrives_without_control_sequences() -> None:
    async with chat_app() as chat:
        pasted = "\x1b]0;title\x07" + "line of text\n" * 5_000
        chat.app.post_message(events.Paste(pasted))
        await chat.until(lambda: len(chat.screen.composer.text) == 65_000)
        await chat.settled()
        assert len(chat.screen.composer.text) == 65_000  # once
        assert "title" not in chat.screen.composer.text
        await chat.until(lambda: chat.screen.panes[0].bar.message.startswith("Does not fit"))


@pytest.mark.usefixtures("keys_at_once")
async def test_escape_stops_and_keeps_what_there_is() -> None:
    async with chat_app(generation=LONG) as chat:
        await chat.press(*"go", "enter")
        await chat.until(lambda: chat.screen.active.transcript.is_live and "Assistant" in chat.text())
        await chat.until(lambda: chat.screen.status.status.activity == "writing")
        await chat.press("escape")
        await chat.until(lambda: chat.screen.running is None)
        reply = chat.path[-1]
        assert reply.finish_reason == "cancelled"
        assert reply.content
        assert "stopped before its end" in chat.text()


@pytest.mark.usefixtures("keys_at_once")
async def test_a_stopped_reply_can_be_continued() -> None:
    async with chat_app(generation=LONG) as chat:
        await chat.press(*"go", "enter")
        await chat.until(lambda: chat.screen.status.status.activity == "writing")
        await chat.press("escape")
        await chat.until(lambda: chat.screen.running is None)
        partial = chat.path[-1].content
        await chat.press("escape", "c")
        await chat.until(lambda: chat.screen.running is not None)
        await chat.until(lambda: chat.screen.status.status.activity == "writing")
        await chat.press("escape")
        await chat.until(lambda: chat.screen.running is None)
        assert len(chat.messages) == 2
        assert chat.path[-1].content.startswith(partial)
        assert len(chat.path[-1].content) > len(partial)


@pytest.mark.parametrize("key", ["ctrl+r", "r"])
async def test_regenerate_makes_a_branch(key: str) -> None:
    async with chat_app() as chat:
        await chat.send("Hello")
        first = chat.path[-1].id
        if key == "r":
            await chat.press("escape")
        await chat.press(key)
        await chat.until(lambda: chat.path[-1].id != first and chat.screen.running is None)
        await chat.settled()
        assert chat.screen.active.conversation.branch(chat.path[-1].id) == (2, 2)
        assert "2/2" in chat.text()


async def test_regenerate_with_a_seed_is_another_reply_and_repeatable() -> None:
    replies = []
    for _ in range(2):
        async with chat_app(generation=GenerationConfig(max_new_tokens=16, temperature=1.0, seed=5)) as chat:
            await chat.send("Hello")
            first = chat.path[-1]
            await chat.press("ctrl+r")
            await chat.until(lambda first=first: chat.path[-1].id != first.id and chat.screen.running is None)
            await chat.settled()
            replies.append((first.content, chat.path[-1].content))
    assert replies[0][0] != replies[0][1]
    assert replies[0] == replies[1]


async def test_ctrl_n_begins_a_new_conversation() -> None:
    async with chat_app(system="Be brief.") as chat:
        await chat.send("Hello")
        before = chat.screen.active.conversation.id
        await chat.press("ctrl+n")
        await chat.settled()
        assert chat.messages == []
        assert chat.screen.active.conversation.id != before
        assert chat.screen.active.conversation.system == "Be brief."
        assert chat.screen.active.title.render().plain.startswith(NEW_TITLE)


async def test_a_model_that_cannot_be_loaded_is_said_and_the_draft_stays() -> None:
    async with chat_app(load=False, model="/no/such/folder") as chat:
        await chat.until(lambda: chat.screen.panes[0].conversation is not None)
        await chat.press(*"hi", "enter")
        await chat.until(lambda: any("/no/such/folder" in notice for notice in chat.notices))
        await chat.press("enter")
        assert any("F9 loads one" in notice for notice in chat.notices)
        assert chat.screen.composer.text == "hi"
        assert not chat.screen.waiting
        assert "no model loaded (F9 tries again): There is no file or folder" in chat.screen.status.render().plain
        assert "/no/such/folder" in chat.text()
        assert "F9 tries again" in chat.text()


async def test_without_messages_keys_go_into_the_input() -> None:
    async with chat_app(load=False) as chat:
        await chat.until(lambda: chat.screen.active.conversation is not None)
        chat.screen.active.transcript.focus()
        await chat.press("a")
        await chat.pilot.click("#left Transcript")
        await chat.press("b")
        await chat.press("tab", "shift+tab", "c")
        assert chat.screen.composer.text == "abc"


async def test_keys_are_called_as_the_person_has_set_them() -> None:
    keys = {"model": "ctrl+o", "stop": "ctrl+g", "send": "f10", "help": "question_mark"}
    async with chat_app(load=False, model="/no/such/folder", keys=keys) as chat:
        await chat.until(lambda: any("/no/such/folder" in notice for notice in chat.notices))
        await chat.press(*"hi", "f10")
        assert any("Ctrl+O loads one" in notice for notice in chat.notices)
        assert "no model loaded (Ctrl+O tries again)" in chat.screen.status.render().plain
        assert "F10 sends, Ctrl+J begins" in str(chat.screen.composer.placeholder)
        assert [chat.screen.key(id) for id in ("stop", "help", "branch_next", "rate_bad")] == ["Ctrl+G", "?", "]", "-"]
