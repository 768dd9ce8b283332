"""The list of conversations."""

from __future__ import annotations

from datetime import date, datetime, timezone

import pytest
from textual.widgets import Input

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic_tui.widgets.conversation_list import day_name
from tests.tui.app.helpers import LONG, Chat, chat_app


@pytest.fixture
def talks(store: ConversationStore) -> list[str]:
    """Three conversations, oldest first."""
    ids = []
    for topic in ("mountains", "typefaces", "sorting"):
        conversation = Conversation(journal=store)
        conversation.add("user", f"Tell me about {topic}")
        conversation.add("assistant", f"Everything about {topic}.", finish_reason="stop")
        ids.append(conversation.id)
    return ids


def titles(chat: Chat) -> list[str]:
    return [entry.title for entry in chat.screen.library.entries]


async def test_newest_first_and_enter_opens(talks: list[str]) -> None:
    async with chat_app() as chat:
        await chat.until(lambda: len(titles(chat)) == 3)
        assert titles(chat)[0] == "Tell me about sorting"
        await chat.press("f3", "down", "down", "down", "enter")
        await chat.settled()
        assert chat.screen.active.conversation_id in talks
        assert chat.messages[0][1].startswith("Tell me about")
        assert chat.screen.composer.has_focus


@pytest.mark.usefixtures("keys_at_once")
async def test_a_new_conversation_is_listed_while_its_first_reply_is_written() -> None:
    async with chat_app(generation=LONG) as chat:
        await chat.press(*"hello", "enter")
        await chat.until(lambda: titles(chat) == ["hello"])
        assert chat.screen.writing


async def test_search_finds_words_in_messages(talks: list[str]) -> None:
    async with chat_app() as chat:
        await chat.press("f3", *"typef")
        await chat.until(lambda: titles(chat) == ["Tell me about typefaces"])
        assert "typefaces" in chat.screen.library.entries[0].excerpt
        chat.screen.library.query_one("#search", Input).value = ""
        await chat.until(lambda: len(titles(chat)) == 3)


async def test_last_and_an_id_are_opened_at_the_start(talks: list[str]) -> None:
    async with chat_app(conversation="last") as chat:
        assert chat.screen.active.conversation_id == talks[-1]
    async with chat_app(conversation=talks[0]) as chat:
        assert chat.screen.active.conversation_id == talks[0]
    async with chat_app(conversation="no-such-id") as chat:
        assert chat.messages == []
        assert any("no-such-id" in notice for notice in chat.notices)


async def test_reading_and_searching_need_no_model(talks: list[str]) -> None:
    async with chat_app(conversation=talks[0], load=False, model="/no/such/folder") as chat:
        await chat.until(lambda: len(chat.messages) == 2)
        assert "Everything about mountains." in chat.text()
        await chat.press("f3", *"sorting")
        await chat.until(lambda: titles(chat) == ["Tell me about sorting"])


async def test_rename_delete_and_undo(talks: list[str], store: ConversationStore) -> None:
    async with chat_app(conversation=talks[0]) as chat:
        await chat.until(lambda: len(titles(chat)) == 3)
        await chat.press("f3", "tab")
        chat.screen.library._options.highlighted = 3  # the oldest one: a heading stands first
        await chat.press("r")
        chat.app.screen.query_one("#line", Input).value = "Peaks"
        await chat.press("enter")
        await chat.until(lambda: "Peaks" in titles(chat))
        assert store.load(talks[0]).title == "Peaks"
        assert chat.screen.active.title.render().plain.startswith("Peaks")
        await chat.press("d")
        await chat.until(lambda: len(titles(chat)) == 2)
        assert chat.messages == []
        await chat.press("u")
        await chat.until(lambda: "Peaks" in titles(chat))


async def test_open_beside(talks: list[str]) -> None:
    async with chat_app(conversation=talks[0], size=(150, 36)) as chat:
        await chat.until(lambda: len(titles(chat)) == 3)
        await chat.press("f3", "tab")
        chat.screen.library._options.highlighted = 1
        await chat.press("o")
        await chat.until(lambda: talks[-1] in [pane.conversation_id for pane in chat.screen.shown])
        assert chat.screen.split


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        (datetime(2026, 5, 20, 8, tzinfo=timezone.utc), "Today"),
        (datetime(2026, 5, 19, 23, tzinfo=timezone.utc), "Yesterday"),
        (datetime(2026, 5, 16, 12, tzinfo=timezone.utc), "Saturday"),
        (datetime(2026, 5, 3, 12, tzinfo=timezone.utc), "3 May"),
        (datetime(2025, 12, 3, 12, tzinfo=timezone.utc), "December 2025"),
        (datetime(2026, 5, 21, 12, tzinfo=timezone.utc), "Today"),
    ],
)
def test_day_names(moment: datetime, name: str) -> None:
    assert day_name(moment, date(2026, 5, 20)) == name
