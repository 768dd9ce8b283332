"""Conversations branch, and lose nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmmagic.core.chat.journal import Head
from llmmagic.core.chat.messages import Message, new_id
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.errors import ChatError, ConfigError, ConversationNotFoundError, StoreError


def texts(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.path()]


def test_ids_sort_by_time_and_never_repeat() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000


def test_an_edited_message_becomes_a_branch_and_the_old_one_stays() -> None:
    talk = Conversation()
    first = talk.add("user", "Describe Times New Roman.")
    talk.add("assistant", "A serif typeface.")
    other = talk.edit(first.id, "Describe Montserrat.")
    talk.add("assistant", "A sans-serif typeface.")
    assert texts(talk) == ["Describe Montserrat.", "A sans-serif typeface."]
    assert talk.branch(other.id) == (2, 2)
    assert [m.id for m in talk.siblings(first.id)] == [first.id, other.id]
    talk.select(first.id)
    assert texts(talk) == ["Describe Times New Roman.", "A serif typeface."]


def test_another_reply_is_a_branch_under_the_same_question() -> None:
    talk = Conversation()
    question = talk.add("user", "2 + 2?")
    talk.add("assistant", "Five.")
    talk.add("assistant", "Four.", parent=question.id)
    assert texts(talk) == ["2 + 2?", "Four."]
    assert talk.branch(talk.path()[-1].id) == (2, 2)


def test_going_back_to_a_branch_ends_where_it_was_left() -> None:
    talk = Conversation()
    root = talk.add("user", "a")
    old = talk.add("assistant", "b")
    talk.add("user", "c")
    talk.add("user", "d", parent=old.id)
    end = talk.add("assistant", "e")
    talk.edit(root.id, "A")
    talk.select(root.id)
    assert talk.leaf == end.id
    assert texts(talk) == ["a", "b", "d", "e"]


def test_a_reply_grows_but_what_the_user_wrote_does_not() -> None:
    talk = Conversation()
    question = talk.add("user", "2 + 2?")
    reply = talk.add("assistant", "", finish_reason="cancelled")
    assert reply.partial
    talk.update(reply.id, content="Fo")
    talk.update(reply.id, content="Four.", finish_reason="stop", token_count=2)
    done = talk[reply.id]
    assert (done.content, done.finish_reason, done.token_count, done.partial) == ("Four.", "stop", 2, False)
    with pytest.raises(ChatError, match="Only replies grow"):
        talk.update(question.id, content="3 + 3?")


def test_ratings_pins_and_better_answers_stay_with_their_message() -> None:
    talk = Conversation()
    reply = talk.add("assistant", "Five.")
    talk.rate(reply.id, -1)
    talk.better(reply.id, "Four.")
    talk.pin(reply.id)
    assert (talk[reply.id].rating, talk[reply.id].better, talk[reply.id].pinned) == (-1, "Four.", True)
    talk.unpin(reply.id)
    talk.rate(reply.id, None)
    assert (talk[reply.id].rating, talk[reply.id].pinned) == (None, False)
    with pytest.raises(ConfigError, match="rating must be 1, -1 or None, got 5"):
        talk.rate(reply.id, 5)


def test_unknown_messages_and_system_messages_are_refused() -> None:
    talk = Conversation()
    with pytest.raises(ConversationNotFoundError, match="No message 'x'"):
        talk.pin("x")
    with pytest.raises(ConversationNotFoundError):
        talk.add("user", "hi", parent="x")
    with pytest.raises(ChatError, match="A system prompt is no message"):
        talk.add("system", "Be brief.")


def test_half_a_character_and_nul_become_replacement_signs() -> None:
    assert Conversation().add("user", "a\ud83d").content == "a�"
    assert Conversation().add("user", "a\0b").content == "a�b"
    assert Conversation().add("user", "😀").content == "😀"


class Refusing:
    """A journal that keeps what it gets, until its disk is full."""

    def __init__(self) -> None:
        self.full = False
        self.messages: dict[str, Message] = {}
        self.head: Head | None = None

    def save(self, head: Head, messages: Sequence[Message]) -> None:
        if self.full:
            raise StoreError("The disk is full.")
        self.head = head
        self.messages.update((message.id, message) for message in messages)


def test_what_cannot_be_written_down_has_not_happened() -> None:
    journal = Refusing()
    talk = Conversation(journal=journal)
    first = talk.add("user", "a")
    journal.full = True
    before = (talk.head, list(talk), talk.path())
    for change in (
        lambda: talk.add("user", "b"),
        lambda: talk.edit(first.id, "b"),
        lambda: talk.pin(first.id),
        lambda: setattr(talk, "system", "Be brief."),
    ):
        with pytest.raises(StoreError, match="The disk is full"):
            change()
    assert (talk.head, list(talk), talk.path()) == before


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "reply", "edit", "select", "pin", "rate", "update", "system"]), st.integers(0, 99)
    ),
    max_size=25,
)


@given(OPERATIONS)
@settings(max_examples=150, deadline=None)
def test_whatever_is_done_the_journal_can_restore_it_and_nothing_is_lost(operations: list[tuple[str, int]]) -> None:
    journal = Refusing()
    talk = Conversation(title="t", journal=journal)
    said: set[str] = set()
    for step, (kind, number) in enumerate(operations):
        ids = [message.id for message in talk]
        target = ids[number % len(ids)] if ids else None
        text = f"text {step}"
        if kind == "add" or target is None:
            said.add(talk.add("user", text).content)
        elif kind == "reply":
            said.add(talk.add("assistant", text, parent=target).content)
        elif kind == "edit":
            said.add(talk.edit(target, text).content)
        elif kind == "select":
            talk.select(target)
            assert target in [message.id for message in talk.path()]
        elif kind == "pin":
            talk.pin(target)
        elif kind == "rate":
            talk.rate(target, 1)
        elif kind == "system":
            talk.system = text
        elif talk[target].role == "assistant":
            talk.update(target, content=talk[target].content, finish_reason="stop")
        path = talk.path()
        assert [message.parent for message in path] == [None, *(message.id for message in path[:-1])]
        assert not any(message.parent == talk.leaf for message in talk)
    assert said <= {message.content for message in talk}
    restored = Conversation(head=journal.head or talk.head, messages=journal.messages.values())
    assert restored.head == talk.head
    assert restored.path() == talk.path()
    assert list(restored) == list(talk)
