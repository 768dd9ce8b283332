"""A reply: the text as it grows, and in the end the figures beneath it."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import assert_never

from llmmagic.core.chat.words import about
from llmmagic.core.events import (
    ChatEvent,
    ChatFinished,
    ChatStarted,
    FinishReason,
    Notice,
    PrefillProgress,
    TextDelta,
    WindowReport,
)
from llmmagic.magics.figures import rate_text, seconds_text
from llmmagic.magics.views.card import Note

DEFAULT_CONVERSATION = "default"


@dataclass(frozen=True, slots=True)
class ReplyCard:
    """What there is to see of a reply at one moment. All texts are untrusted.

    Attributes:
        text: The reply so far, Markdown as the model wrote it.
        running: Whether more may come.
        status: What is going on before the first token.
        footer: Figures, when it is over.
        notes: Sentences.
    """

    text: str
    running: bool
    status: str = ""
    footer: str = ""
    notes: tuple[Note, ...] = ()


class ReplyView:
    """Folds the events of a chat.

    Attributes:
        finished: The last event, once there.
    """

    def __init__(self) -> None:
        self.finished: ChatFinished | None = None
        self._parts: list[str] = []
        self._status = "Waiting for the model"
        self._notes: list[Note] = []
        self._failed = False

    def on(self, event: ChatEvent) -> None:
        """Take in an event."""
        match event:
            case Notice(text=text, level=level):
                self._notes.append(Note(text, level))
            case ChatStarted(window=window):
                if window.newly_dropped_turns:
                    self._notes.append(_dropped(window))
            case PrefillProgress(done_tokens=done, total_tokens=total):
                self._status = f"Reading the prompt: {done:,} of {total:,} tokens"
            case TextDelta(text=text):
                self._parts.append(text)
            case ChatFinished():
                self.finished = event
            case _:
                assert_never(event)

    def stopping(self) -> None:
        """An end was asked for."""
        self._status = "Stopping"

    def failed(self) -> None:
        """The operation raised."""
        self._failed = True

    def card(self) -> ReplyCard:
        """What there is to see now."""
        notes = tuple(self._notes)
        if self.finished is not None:
            return ReplyCard(self.finished.text, running=False, footer=footer(self.finished), notes=notes)
        text = "".join(self._parts)
        if self._failed:
            return ReplyCard(text, running=False, footer="broken off", notes=notes)
        return ReplyCard(text, running=True, status="" if text else self._status, notes=notes)


def footer(finished: ChatFinished) -> str:
    """The line beneath a reply: speed, time to first token, context used and limit, and why it ended if it was cut."""
    stats, window = finished.stats, finished.window
    parts = []
    if stats.tokens_per_s > 0:
        parts.append(f"{rate_text(stats.tokens_per_s)} tokens/s")
    if stats.completion_tokens:
        parts.append(f"first token after {seconds_text(stats.time_to_first_token_s)}")
    parts.append(f"context {about(window)}{window.prompt_tokens:,} / {window.context_window:,} tokens")
    if finished.conversation != DEFAULT_CONVERSATION:
        parts.append(f"conversation {finished.conversation}")
    if reason := _reason(finished.finish_reason, stats.completion_tokens):
        parts.append(reason)
    return " · ".join(parts)


def _reason(reason: FinishReason, completion_tokens: int) -> str:
    match reason:
        case "stop":
            return ""
        case "length":
            return f"cut off at {completion_tokens:,} tokens (--max-new-tokens)"
        case "context":
            return "cut off: the context window is full"
        case "cancelled":
            return "stopped"
        case _:
            assert_never(reason)


def _dropped(window: WindowReport) -> Note:
    turns, tokens = window.newly_dropped_turns, window.newly_dropped_tokens
    what = "the oldest turn" if turns == 1 else f"the {turns:,} oldest turns"
    figures = "" if tokens is None else f" ({about(window)}{tokens:,} tokens)"
    return Note(f"The context window is full: the model no longer sees {what}{figures}.")
