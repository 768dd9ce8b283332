"""The visible context window: every figure is the core's, and what drops is said before."""

from __future__ import annotations

import pytest

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.config import GenerationConfig
from llmmagic_tui.screens.context import ContextScreen
from llmmagic_tui.widgets.window_table import WindowTable
from tests.tui.app.helpers import Chat, chat_app

SHORT = GenerationConfig(temperature=0, max_new_tokens=16)


@pytest.fixture
def talk(store: ConversationStore) -> Conversation:
    """Three turns; one byte is one token, so each has 2 x 60 and its frame."""
    conversation = Conversation(journal=store)
    for number in range(3):
        conversation.add("user", f"{number}" * 60)
        conversation.add("assistant", "r" * 60, finish_reason="stop", token_count=60)
    return conversation


async def test_the_bar_shows_the_sessions_figures(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id) as chat:
        chat.screen.composer.text = "four"
        await chat.settled()
        bar, session = chat.screen.active.bar, chat.screen.backend.session
        assert bar.report == session.window(talk.id, draft="four", generation=chat.screen.backend.generation)
        figures = bar.render_line(1).text
        assert f"{bar.report.prompt_tokens:,} of 2,048 tokens" in figures
        assert f"draft {next(s.tokens for s in bar.report.segments if s.kind == 'draft')}" in figures
        assert bar.render_line(0).cell_length == bar.size.width


async def test_what_sending_would_drop_is_announced_marked_and_then_dimmed(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id, context=520, generation=SHORT, size=(110, 60)) as chat:
        pane = chat.screen.active
        assert "no longer sees" not in chat.text()
        chat.screen.composer.text = "x" * 100
        await chat.settled()
        report = pane.report
        assert report.newly_dropped_turns >= 1
        assert pane.bar.message.startswith(f"Sending drops {report.newly_dropped_turns} turn")
        assert f"({report.newly_dropped_tokens:,} tokens)" in pane.bar.message
        assert chat.text().count("drops with this send") == len(report.newly_dropped_message_ids)
        pane.show_window(report, sent=True)  # from then on, while the reply is written
        assert pane.bar.message == ""
        assert "drops with this send" not in chat.text()
        await chat.press("enter")
        await chat.until(lambda: len(chat.messages) == 8 and chat.screen.running is None)
        await chat.settled()
        dropped = set(pane.report.dropped_message_ids)
        assert dropped == set(report.newly_dropped_message_ids)
        text = chat.text()
        assert f"the model no longer sees {len(dropped)} messages above" in text
        assert text.count("no longer seen") == len(dropped)
        rule = next(y for y, line in enumerate(text.splitlines()) if "╌╌╌ the model" in line)
        assert all(line.find("no longer seen") < 0 for line in text.splitlines()[rule + 1 :])


async def test_a_pinned_message_stays(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id, context=520, generation=SHORT) as chat:
        await chat.press("escape", "home", "p")
        await chat.settled()
        chat.screen.composer.text = "x" * 100
        await chat.settled()
        report = chat.screen.active.report
        first, second = talk.path()[0].id, talk.path()[1].id
        assert {first, second}.isdisjoint(report.dropped_message_ids)
        assert any(segment.kind == "pinned" for segment in report.segments)


async def test_a_draft_that_cannot_fit_is_refused_with_figures_and_stays(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id, context=520, generation=SHORT) as chat:
        chat.screen.composer.text = "y" * 600
        await chat.settled()
        assert "do not fit into the context window of 520" in chat.screen.active.bar.message
        await chat.press("enter")
        await chat.until(lambda: any("do not fit" in notice for notice in chat.notices))
        await chat.settled()
        assert chat.screen.composer.text == "y" * 600
        assert len(chat.messages) == 6


async def test_the_stop_policy_refuses_and_can_be_changed(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id, context=520, generation=SHORT, overflow="stop") as chat:
        chat.screen.composer.text = "x" * 100
        await chat.settled()
        assert "do not fit" in chat.screen.active.bar.message
        await chat.press("f8")
        chat.app.screen.query_one("#overflow").value = "rolling"  # type: ignore[attr-defined]
        await chat.press("ctrl+s")
        await chat.settled()
        assert chat.screen.active.bar.message.startswith("Sending drops")


def rows_of(chat: Chat) -> list[tuple[str, ...]]:
    """What the rows of the detail view say."""
    assert isinstance(chat.app.screen, ContextScreen)
    table = chat.app.screen.query_one(WindowTable)
    return [table.cells(index) for index in range(len(table.rows))]


def figure(cell: str) -> int:
    return int(cell.replace(",", ""))


async def test_the_detail_screen_has_a_row_for_each_message(talk: Conversation) -> None:
    async with chat_app(conversation=talk.id, context=520, generation=SHORT) as chat:
        chat.screen.composer.text = "x" * 100
        await chat.settled()
        report = chat.screen.active.report
        await chat.press("f2")
        await chat.settled()
        rows = rows_of(chat)
        messages = [row for row in rows if row[0]]
        assert len(messages) == 6
        inside = [row for row in messages if row[4].startswith("in")]
        assert [figure(row[2]) for row in inside] == [
            report.message_tokens[m.id] for m in chat.path if m.id not in report.dropped_message_ids
        ]
        outside = [row for row in messages if row[4] == "drops when sent"]
        assert len(outside) == len(report.newly_dropped_message_ids)
        assert sum(figure(row[2]) for row in outside) == report.newly_dropped_tokens
        # Every token of the window is in a row.
        counted = sum(figure(row[2]) for row in rows if row[2] and row not in outside)
        assert counted == report.context_window
        await chat.press("escape")
        assert not isinstance(chat.app.screen, ContextScreen)


async def test_the_detail_of_a_long_conversation_begins_where_the_window_does_and_counts_all(
    store: ConversationStore,
) -> None:
    long = Conversation()
    for number in range(600):
        long.add("user", f"question {number}")
        long.add("assistant", "answer", finish_reason="stop")
    store.save(long.head, list(long))
    async with chat_app(conversation=long.id, context=520, generation=SHORT) as chat:
        await chat.settled()
        report = chat.screen.active.report
        assert report.newly_dropped_turns > 580
        # Counted in the background, after the window was shown without that figure.
        assert f"({report.newly_dropped_tokens:,} tokens)" in chat.screen.active.bar.message
        await chat.press("f2")
        await chat.until(lambda: all(row[2] != "…" for row in rows_of(chat)))
        outside = [row for row in rows_of(chat) if row[4] == "drops when sent"]
        assert sum(figure(row[2]) for row in outside) == report.newly_dropped_tokens
        table = chat.app.screen.query_one(WindowTable)
        seen = [table.render_line(y).text for y in range(table.size.height)]
        assert "drops when sent" in seen[0]
        assert any("the window begins here" in line for line in seen)
        first = next(m for m in chat.path if m.id not in report.dropped_message_ids)
        assert any(first.content in line for line in seen)
