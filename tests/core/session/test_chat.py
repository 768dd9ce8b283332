"""Talking through a session: what is remembered, what is refused, and what a stop leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from llmmagic import GenerationConfig, Session
from llmmagic.core.errors import (
    ConfigError,
    ContextOverflowError,
    ConversationNotFoundError,
    ModelNotLoadedError,
    SessionBusyError,
)
from llmmagic.core.events import ChatFinished, ChatStarted, TextDelta

SHORT: dict[str, Any] = {"max_new_tokens": 6, "seed": 1}


def prompt_of(session: Session, conversation: str = "default") -> str:
    """The prompt that the model would get now, as text."""
    opened = session._require("Reading the prompt")
    plan = session._conversations.plan(conversation, opened, draft="next", reserve_tokens=8)
    return opened.template.decode(plan.prompt_ids)


def test_a_conversation_goes_on_from_prompt_to_prompt(session: Session) -> None:
    session.ask("Describe Times New Roman.", **SHORT)
    session.ask("Describe Montserrat.", **SHORT)
    assert [message.role for message in session.conversation().path()] == ["user", "assistant"] * 2
    assert "Times New Roman" in prompt_of(session)


def test_conversations_are_independent(session: Session) -> None:
    session.ask("Describe Times New Roman.", conversation="fonts", **SHORT)
    session.ask("Describe Montserrat.", conversation="other", **SHORT)
    assert "Times New Roman" not in prompt_of(session, "other")
    assert sorted(session.conversations) == ["fonts", "other"]


def test_new_starts_a_conversation_anew(session: Session) -> None:
    session.ask("Describe Times New Roman.", **SHORT)
    session.ask("Describe Montserrat.", new=True, **SHORT)
    assert "Times New Roman" not in prompt_of(session)
    assert len(session.conversation()) == 2


def test_events_tell_the_whole_story(session: Session) -> None:
    events = list(session.chat("Hello", **SHORT))
    started, finished = events[0], events[-1]
    assert isinstance(started, ChatStarted)
    assert isinstance(finished, ChatFinished)
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert "".join(delta.text for delta in deltas) == finished.text
    assert sum(len(delta.token_ids) for delta in deltas) == finished.stats.completion_tokens
    assert finished.stats.prompt_tokens == started.window.prompt_tokens
    reply = session.conversation()[finished.message_id]
    assert (reply.content, reply.finish_reason, reply.id) == (finished.text, finished.finish_reason, started.reply_id)
    assert reply.parent == started.message_id


def test_the_forecast_is_what_is_sent(session: Session) -> None:
    session.ask("Hello", **SHORT)
    generation = GenerationConfig(max_new_tokens=8)
    forecast = session.window(draft="How are you?", generation=generation)
    events = list(session.chat("How are you?", generation=generation))
    assert isinstance(events[0], ChatStarted)
    assert isinstance(events[-1], ChatFinished)
    assert events[0].window.prompt_tokens == forecast.prompt_tokens == events[-1].stats.prompt_tokens
    assert events[0].window.reserve_tokens == forecast.reserve_tokens == 8


def test_the_second_turn_reads_only_what_is_new(session: Session) -> None:
    first = session.chat("Hello " * 20, **SHORT).wait()
    second = session.chat("Again", **SHORT).wait()
    assert isinstance(first, ChatFinished)
    assert isinstance(second, ChatFinished)
    assert second.stats.cached_tokens >= first.stats.prompt_tokens


def test_a_system_prompt_stays_and_can_be_taken_back(session: Session) -> None:
    session.ask("Hello", system="Be brief.", **SHORT)
    session.ask("Hello", **SHORT)
    assert prompt_of(session).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    session.ask("Hello", system="", **SHORT)
    assert "system" not in prompt_of(session)


def test_editing_makes_a_branch_and_loses_nothing(session: Session) -> None:
    session.ask("One", **SHORT)
    question = session.conversation().path()[0]
    session.edit(question.id, "Two", **SHORT).wait()
    talk = session.conversation()
    assert talk.path()[0].content == "Two"
    assert len(talk) == 4
    talk.select(question.id)
    assert talk.path()[0].content == "One"


def test_regenerating_puts_another_reply_beside_the_first(session: Session) -> None:
    session.ask("One", **SHORT)
    session.regenerate(max_new_tokens=6, seed=2).wait()
    talk = session.conversation()
    assert talk.branch(talk.path()[-1].id) == (2, 2)
    assert len(talk.path()) == 2


def test_continuing_adds_to_the_same_reply(session: Session) -> None:
    before = session.ask("One", **SHORT)
    finished = session.continue_reply(max_new_tokens=4, seed=1).wait()
    assert isinstance(finished, ChatFinished)
    assert finished.text.startswith(before)
    assert session.conversation().path()[-1].content == finished.text
    assert len(session.conversation()) == 2


def test_a_stopped_reply_is_kept_and_marked(session: Session) -> None:
    operation = session.chat("Hello", max_new_tokens=1000, seed=1, temperature=5)
    for event in operation:
        if isinstance(event, TextDelta):
            operation.cancel()
        last = event
    assert isinstance(last, ChatFinished)
    assert last.finish_reason == "cancelled"
    reply = session.conversation().path()[-1]
    assert reply.partial
    assert reply.content == last.text
    assert session.busy is None


def test_a_prompt_that_cannot_fit_leaves_the_conversation_as_it_was(session: Session) -> None:
    session.ask("Hello", system="Be brief.", **SHORT)
    before = session.conversation().path()
    with pytest.raises(ContextOverflowError) as caught:
        session.ask("x" * 5000, system="Be long.", **SHORT)
    assert caught.value.needed_tokens > caught.value.context_window == 2048
    assert session.conversation().path() == before
    assert session.conversation().system == "Be brief."
    with pytest.raises(ContextOverflowError):
        session.ask("x" * 5000, conversation="fresh", **SHORT)
    edited = session.edit(before[0].id, "x" * 5000)
    with pytest.raises(ContextOverflowError):
        edited.wait()
    assert "fresh" not in session.conversations
    assert len(session.conversation()) == 2


def test_old_turns_leave_a_full_window_and_are_named() -> None:
    session = Session()
    session.load("tiny-random", max_context=200).wait()
    dropped: list[str] = []
    for number in range(6):
        events = list(session.chat(f"Message number {number}", max_new_tokens=20, seed=1))
        assert isinstance(events[0], ChatStarted)
        dropped += events[0].window.newly_dropped_message_ids
    path = session.conversation().path()
    assert dropped == [message.id for message in path[: len(dropped)]]
    assert len(dropped) >= 4
    session.close()


def test_stop_refuses_with_the_figures() -> None:
    session = Session(overflow="stop")
    session.load("tiny-random", max_context=100).wait()
    session.ask("Hello", max_new_tokens=20, seed=1)
    with pytest.raises(ContextOverflowError, match="do not fit into the context window of 100"):
        session.ask("Hello once more and again", max_new_tokens=20, seed=1)
    session.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatur": 1}, "Unknown setting 'temperatur'. Did you mean 'temperature'?"),
        ({"max_new_tokens": 0}, "max_new_tokens must be >= 1, got 0"),
    ],
)
def test_bad_settings_are_refused_at_once(session: Session, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        session.chat("Hello", **settings)
    assert message in str(caught.value)
    assert session.conversations == {}


def test_an_empty_prompt_is_refused(session: Session) -> None:
    with pytest.raises(ConfigError, match="The prompt is empty"):
        session.ask("  \n")


def test_chatting_needs_a_model() -> None:
    with pytest.raises(ModelNotLoadedError, match="Chatting needs a model, and none is loaded"):
        Session().ask("Hello")


def test_there_is_nothing_to_regenerate_in_an_unknown_conversation(session: Session) -> None:
    with pytest.raises(ConversationNotFoundError, match="No conversation 'defalt'"):
        session.regenerate(conversation="defalt")


def test_one_operation_at_a_time(session: Session) -> None:
    operation = session.chat("Hello", max_new_tokens=1000, seed=1, temperature=5)
    with pytest.raises(SessionBusyError, match="a chat operation is running"):
        session.chat("Me too")
    operation.cancel()
    operation.wait()
    assert session.ask("Me too", **SHORT) is not None
