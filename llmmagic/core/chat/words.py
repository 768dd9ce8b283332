"""The sentences about a conversation that every shell says in the same words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a shell reads its words before anything of the core is needed
    from llmmagic.core.chat.tree import Conversation
    from llmmagic.core.events import FinishReason, GenerationStats, SegmentKind, SessionStatus, WindowReport

FINISH_NOTES: dict[FinishReason, str] = {
    "cancelled": "stopped before its end",
    "length": "ended at the token limit",
    "context": "ended because the context window is full",
}
"""What is said beneath a reply that did not end by itself."""

LEGEND: dict[SegmentKind, str] = {
    "template": "template",
    "system": "system",
    "pinned": "pinned",
    "turn": "turns",
    "draft": "draft",
    "reserve": "reply",
    "free": "free",
}
"""What the parts of a context window are called, in the order of the bar."""


@dataclass(frozen=True, slots=True)
class WindowView:
    """What a shell says about a context window.

    Attributes:
        out: Messages that the model no longer sees.
        leaving: Messages that it sees now, and that sending the draft would drop.
        cut: What stands on the line beneath the last message that is out; empty if none is.
        forecast: What sending would drop, in a sentence; empty if it drops nothing.
        figures: ``"1,203 of 2,048 tokens (59%)"``; with ``"about"`` before it where the tokens are estimated.
        sums: Tokens of each kind of segment that has any, in the order of `LEGEND`.
    """

    out: frozenset[str]
    leaving: frozenset[str]
    cut: str
    forecast: str
    figures: str
    sums: dict[SegmentKind, int]


def view_window(report: WindowReport, *, sent: bool = False) -> WindowView:
    """Put a report into words.

    Args:
        report: Exact figures.
        sent: They are those of a prompt that was sent: what it dropped is gone, not about to go.

    Returns:
        What to show.
    """
    leaving = frozenset(() if sent else report.newly_dropped_message_ids)
    out = frozenset(report.dropped_message_ids) - leaving
    sums = dict.fromkeys(LEGEND, 0)
    for segment in report.segments:
        sums[segment.kind] += segment.tokens
    forecast = ""
    if report.newly_dropped_turns and not sent:
        turns = "1 turn" if report.newly_dropped_turns == 1 else f"{report.newly_dropped_turns:,} turns"
        count = report.newly_dropped_tokens
        forecast = f"Sending drops {turns}{'' if count is None else f' ({about(report)}{count:,} tokens)'}."
    messages = "1 message" if len(out) == 1 else f"{len(out)} messages"
    percent = 100 * report.prompt_tokens / report.context_window
    return WindowView(
        out=out,
        leaving=leaving,
        cut=f"the model no longer sees {messages} above" if out else "",
        forecast=forecast,
        figures=f"{about(report)}{report.prompt_tokens:,} of {report.context_window:,} tokens ({percent:.0f}%)",
        sums={kind: tokens for kind, tokens in sums.items() if tokens},
    )


def about(counted: WindowReport | GenerationStats | SessionStatus) -> str:
    """What stands before a number of tokens: nothing where they were counted, ``"about "`` where they are estimated."""
    return "" if counted.exact else "about "


def title_of(conversation: Conversation) -> str:
    """What a conversation is called: by its title, or by what was said first."""
    from llmmagic.core.chat.records import UNTITLED, first_words

    said = next((message.content for message in conversation.path() if message.role == "user"), "")
    return conversation.title or first_words(said) or UNTITLED
