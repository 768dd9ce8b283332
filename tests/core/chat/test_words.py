"""What shells say about a window."""

from __future__ import annotations

from llmmagic.core.chat.tree import Conversation
from llmmagic.core.chat.words import title_of, view_window
from llmmagic.core.events import Segment, WindowReport

REPORT = WindowReport(
    context_window=2048,
    prompt_tokens=1203,
    reserve_tokens=512,
    segments=(
        Segment("template", 3),
        Segment("turn", 800),
        Segment("turn", 390),
        Segment("draft", 10),
        Segment("reserve", 512),
        Segment("free", 333),
    ),
    dropped_message_ids=("a", "b", "c", "d"),
    newly_dropped_message_ids=("c", "d"),
    newly_dropped_tokens=1412,
    newly_dropped_turns=1,
)


def test_before_a_draft_is_sent() -> None:
    view = view_window(REPORT)
    assert (view.out, view.leaving) == ({"a", "b"}, {"c", "d"})
    assert view.forecast == "Sending drops 1 turn (1,412 tokens)."
    assert view.cut == "the model no longer sees 2 messages above"
    assert view.figures == "1,203 of 2,048 tokens (59%)"
    assert view.sums == {"template": 3, "turn": 1190, "draft": 10, "reserve": 512, "free": 333}


def test_what_was_sent_is_gone() -> None:
    view = view_window(REPORT, sent=True)
    assert (view.out, view.leaving, view.forecast) == ({"a", "b", "c", "d"}, frozenset(), "")


def test_a_title_is_what_was_said_first() -> None:
    talk = Conversation()
    assert title_of(talk) == "New conversation"
    talk.add("user", "What is bursitis?")
    assert title_of(talk) == "What is bursitis?"
    talk.title = "Joints"
    assert title_of(talk) == "Joints"
