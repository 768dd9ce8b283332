"""What a session reads while nobody asks it anything, and that it never gets in the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmmagic import GenerationConfig, Session
from llmmagic.core.events import ChatFinished, ChatStarted

WINDOW = 400
SHORT = GenerationConfig(max_new_tokens=8, temperature=0)


@pytest.fixture
def small() -> Iterator[Session]:
    """A session whose window is full after some turns."""
    made = Session()
    made.load("tiny-random", max_context=WINDOW).wait()
    yield made
    made.close()


def say(session: Session, text: str) -> ChatFinished:
    finished = session.chat(text, generation=SHORT).wait()
    assert isinstance(finished, ChatFinished)
    return finished


def until_overflow(session: Session) -> None:
    """Talk until the next message drops something."""
    for number in range(20):
        if session.window(draft="Question 99", generation=SHORT).newly_dropped_turns:
            return
        say(session, f"Question {number:02d}")
    raise AssertionError("the window never gets full")


def test_the_turn_after_an_overflow_reads_only_the_message(small: Session) -> None:
    until_overflow(small)
    small.finish_idle()
    after = say(small, "Question 99, which is a little longer")
    assert after.window.dropped_message_ids
    assert after.stats.prompt_tokens > 100
    assert after.stats.prompt_tokens - after.stats.cached_tokens < 80
    assert say(small, "And one more").stats.cached_tokens > 100


def test_a_reply_can_be_taken_again_as_quickly_as_before(small: Session) -> None:
    until_overflow(small)
    small.finish_idle()
    again = small.regenerate(generation=SHORT).wait()
    assert isinstance(again, ChatFinished)
    assert again.stats.cached_tokens == again.stats.prompt_tokens - 1


def test_whoever_comes_waits_for_one_piece_only(small: Session) -> None:
    reached, go_on = threading.Event(), threading.Event()
    chunks = []

    def hold(_module: Any, _args: Any) -> None:
        if threading.current_thread().name == "llmmagic-prefill-ahead":
            chunks.append(1)
            reached.set()
            assert go_on.wait(30)

    loaded = small._require_loaded("This test")
    for number in range(20):
        small.finish_idle()
        chunks.clear()
        if small.window(draft=f"Question {number:02d}", generation=SHORT).prompt_tokens > 0.8 * WINDOW:
            break
        say(small, f"Question {number:02d}")
    hook = loaded.model.register_forward_pre_hook(hold)
    try:
        say(small, "Now it is nearly full, so that the next one is read ahead.")
        assert reached.wait(30)
        assert small.busy is None
        operation = small.chat("Next", generation=SHORT)  # does not wait
        go_on.set()
        assert isinstance(next(operation), ChatStarted)
        assert len(chunks) == 1
        assert isinstance(operation.wait(), ChatFinished)
    finally:
        go_on.set()
        hook.remove()


def test_a_failure_while_idle_is_nobodys_business(small: Session) -> None:
    until_overflow(small)
    small.finish_idle()

    def fail(_module: Any, _args: Any) -> None:
        if threading.current_thread().name == "llmmagic-prefill-ahead":
            raise RuntimeError("no memory for this")

    hook = small._require_loaded("This test").model.register_forward_pre_hook(fail)
    try:
        say(small, "Question 99")
        until_overflow(small)
        small.finish_idle()
        after = say(small, "Question 99")
        assert after.finish_reason in ("length", "stop")
    finally:
        hook.remove()


def test_closing_ends_it(small: Session) -> None:
    until_overflow(small)
    small.close()
    assert not any(thread.name == "llmmagic-prefill-ahead" for thread in threading.enumerate())
    small.load("tiny-random", max_context=WINDOW).wait()
    assert say(small, "Hello").stats.cached_tokens == 0
