"""What can be done with a message."""

from __future__ import annotations

import pytest

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic_tui.screens.dialogs import ConfirmScreen
from llmmagic_tui.screens.editor import EditorScreen
from tests.tui.app.helpers import Chat, chat_app

REPLY = "<think>\nA short thought of seven words here.\n</think>\n\nUse `sorted`. See [docs](https://example.org/a)."


@pytest.fixture
def talk(store: ConversationStore) -> Conversation:
    """A question and a reply with a thinking part."""
    conversation = Conversation(journal=store)
    conversation.add("user", "How do I sort?")
    conversation.add("assistant", REPLY, finish_reason="stop", token_count=12)
    return conversation


async def write(chat: Chat, text: str) -> None:
    """Replace what the editor on top holds, and save."""
    editor = chat.app.screen.query_one("#editor")
    editor.text = text  # type: ignore[attr-defined]
    await chat.press("ctrl+s")


async def test_edit_makes_a_branch_and_brackets_move_between_them(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id) as chat:
        await chat.press("escape", "up", "e")
        assert isinstance(chat.app.screen, EditorScreen)
        await write(chat, "How do I sort backwards?")
        await chat.until(lambda: chat.messages[0][1] == "How do I sort backwards?" and chat.screen.running is None)
        await chat.settled()
        assert "2/2" in chat.text()
        await chat.press("home", "[")
        await chat.settled()
        assert [text for _, text in chat.messages] == ["How do I sort?", REPLY]
        await chat.press("]")
        await chat.settled()
        assert chat.messages[0][1] == "How do I sort backwards?"
        assert len(chat.screen.active.conversation) == 4  # nothing was lost


async def test_leaving_the_editor_changes_nothing(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id) as chat:
        await chat.press("escape", "up", "e", "escape")
        assert len(chat.screen.active.conversation) == 2


async def test_copy_takes_the_message_without_control_sequences(store: ConversationStore) -> None:
    conversation = Conversation(journal=store)
    conversation.add("user", "a\x1b]52;c;ZXZpbA==\x07b")
    async with chat_app(conversation=conversation.id) as chat:
        await chat.press("escape", "y")
        assert chat.app.clipboard == "ab"


async def test_pin_rate_and_better_answer_are_stored(talk: Conversation, store: ConversationStore) -> None:
    async with chat_app(conversation=talk.id) as chat:
        await chat.press("escape", "p", "plus")
        await chat.settled()
        reply = store.load(talk.id).path()[-1]
        assert (reply.pinned, reply.rating) == (True, 1)
        assert "pinned" in chat.text()
        assert "rated good" in chat.text()
        await chat.press("p", "minus")
        await chat.settled()
        reply = store.load(talk.id).path()[-1]
        assert (reply.pinned, reply.rating) == (False, -1)
        await chat.press("minus")
        await chat.settled()
        assert store.load(talk.id).path()[-1].rating is None
        await chat.press("b")
        await write(chat, "Just `sorted(x)`.")
        await chat.settled()
        assert store.load(talk.id).path()[-1].better == "Just `sorted(x)`."
        assert "Better answer:" in chat.text()


async def test_rating_a_question_is_refused_in_words(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id) as chat:
        await chat.press("escape", "up", "plus")
        assert any("replies" in notice for notice in chat.notices)


async def test_thinking_is_folded_with_its_length(talk: Conversation) -> None:
    thought = "A short thought of seven words here."
    async with chat_app(conversation=talk.id) as chat:
        tokens = chat.screen.backend.session.token_counter()(thought)
        assert tokens == len(thought)  # the tokenizer of this model makes one of each byte
        assert f"▸ thinking · {tokens} tokens" in chat.text()
        assert "short thought" not in chat.text()
        await chat.press("escape", "t")
        assert f"▾ thinking · {tokens} tokens" in chat.text()
        assert "short thought" in chat.text()


async def test_without_a_model_the_length_of_thinking_is_told_in_words(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id, load=False, model="/no/such/folder") as chat:
        await chat.until(lambda: chat.notices)
        assert "▸ thinking · 7 words" in chat.text()


async def test_links_ask_first(talk: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    async with chat_app(conversation=talk.id) as chat:
        line = next(y for y, text in enumerate(chat.text().splitlines()) if "docs" in text)
        column = chat.text().splitlines()[line].index("docs")
        await chat.pilot.click(chat.screen.active.transcript, offset=(column + 2, line))
        await chat.pilot.pause()
        assert isinstance(chat.app.screen, ConfirmScreen)
        await chat.press("n")
        assert opened == []
        await chat.pilot.click(chat.screen.active.transcript, offset=(column + 2, line))
        await chat.press("y")
        assert opened == ["https://example.org/a"]


@pytest.mark.parametrize("address", ["javascript:alert(1)", "file:///etc/passwd", "data:text/html,x", "vscode://x"])
async def test_other_schemes_are_not_followed(talk: Conversation, address: str) -> None:
    from llmmagic_tui.widgets.transcript import Transcript

    async with chat_app(conversation=talk.id) as chat:
        chat.screen.active.transcript.post_message(Transcript.LinkClicked(address))
        await chat.until(lambda: any("Not followed" in notice for notice in chat.notices))
        assert not isinstance(chat.app.screen, ConfirmScreen)


async def test_the_line_below_a_message_can_be_clicked(talk: Conversation, store: ConversationStore) -> None:
    async with chat_app(conversation=talk.id) as chat:
        await chat.press("escape")
        await chat.until(lambda: "p pin" in chat.text())
        lines = chat.text().splitlines()
        line = next(y for y, text in enumerate(lines) if "p pin" in text)
        await chat.pilot.click(chat.screen.active.transcript, offset=(lines[line].index("p pin") + 3, line))
        await chat.settled()
        assert store.load(talk.id).path()[-1].pinned


async def test_code_blocks_have_a_copy_of_their_own(store: ConversationStore) -> None:
    conversation = Conversation(journal=store)
    conversation.add("user", "code?")
    conversation.add("assistant", "Here:\n\n```python\nprint(1)\n```\n", finish_reason="stop")
    async with chat_app(conversation=conversation.id) as chat:
        lines = chat.text().splitlines()
        line = next(y for y, text in enumerate(lines) if "python" in text)
        await chat.pilot.click(chat.screen.active.transcript, offset=(lines[line].index("copy") + 2, line))
        await chat.pilot.pause()
        assert chat.app.clipboard == "print(1)"


async def test_the_system_prompt_is_edited(talk: Conversation, store: ConversationStore) -> None:
    async with chat_app(conversation=talk.id) as chat:
        await chat.press("f7")
        await write(chat, "Be brief.")
        await chat.settled()
        assert store.load(talk.id).system == "Be brief."
        assert any(segment.kind == "system" for segment in chat.screen.active.report.segments)
