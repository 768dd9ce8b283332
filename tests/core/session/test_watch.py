"""Shells that show the state of a session are told when it changes."""

from __future__ import annotations

from pathlib import Path

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.session import Session


def test_the_begin_and_the_end_of_an_operation_are_told() -> None:
    session = Session()
    seen: list[tuple[str | None, bool]] = []
    end = session.watch(lambda: seen.append((session.busy, session.info is not None)))
    session.load("tiny-random").wait()
    session.unload()
    assert seen == [("load", False), (None, True), ("unload", True), (None, False)]
    end()
    session.load("tiny-random").wait()
    assert len(seen) == 4
    session.close()


def test_a_conversation_is_one_object_by_name_and_by_id(tmp_path: Path) -> None:
    with ConversationStore(tmp_path / "conversations.db") as store:
        session = Session(store=store)
        talk = session.new_conversation("fonts")
        talk.add("user", "Describe Montserrat.")
        assert session.conversation(talk.id) is talk
        assert session.name_of(talk.id) == "fonts"
        assert [summary.id for summary in session.past_conversations()] == [talk.id]
        other = Session(store=store)
        assert other.conversation(talk.id).path()[0].content == "Describe Montserrat."
        assert other.name_of(talk.id) == talk.id
