"""What a reply says while it is made, and what the context window looks like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, Union

from llmmagic.core.events.common import Notice

FinishReason = Literal["stop", "length", "context", "cancelled"]
"""Why a reply ended.

stop: an end token or a stop string. length: ``max_new_tokens`` reached. context: the context window is full.
cancelled: the user stopped it.
"""
SegmentKind = Literal["template", "system", "pinned", "turn", "draft", "reserve", "free"]
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """The prompt is being read.

    Attributes:
        done_tokens: Prompt tokens whose keys and values are in the KV cache, the reused ones included.
        total_tokens: Length of the prompt.
        cached_tokens: How many of them were reused from the last prompt.
    """

    done_tokens: int
    total_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How likely the model found a token, before temperature and every other setting.

    Attributes:
        token_id: The token that was chosen.
        logprob: Its log-probability, in nats.
        top: Ids and log-probabilities of the likeliest tokens, best first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the reply.

    Attributes:
        text: New text only, whole characters; may be empty while a character or a stop string is incomplete.
        token_ids: The tokens that were decoded since the last event.
        logprobs: One for each of them, if asked for (``GenerationConfig.logprobs``). Where several tokens make up one
            character, llama.cpp tells only that of the last.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Figures of one reply.

    Attributes:
        prompt_tokens: Length of the prompt.
        cached_tokens: Prompt tokens that were not read again.
        completion_tokens: Tokens generated, an end token included.
        time_to_first_token_s: From the call to the first token.
        duration_s: From the call to the end.
        tokens_per_s: Decoding speed: tokens after the first, by the time since the first. 0.0 with fewer than two.
        exact: Whether the tokens were counted; a server that does not tell them leaves us with an estimate.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    time_to_first_token_s: float
    duration_s: float
    tokens_per_s: float
    exact: bool = True


@dataclass(frozen=True, slots=True)
class GenerationFinished:
    """The engine's last event.

    Attributes:
        text: The whole reply, without end token and stop string.
        token_ids: Every generated id, an end token included.
        finish_reason: Why it ended.
        stats: Figures.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stats: GenerationStats


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of the context window.

    Attributes:
        kind: What the tokens are for.
        tokens: How many.
        message_ids: The messages they belong to.
        label: A short text for people: ``"system prompt"``, ``"turn 3"``.
    """

    kind: SegmentKind
    tokens: int
    message_ids: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class WindowReport:
    """What the model sees of a conversation, in tokens.

    The ``template``, ``system``, ``pinned``, ``turn`` and ``draft`` segments add up to ``prompt_tokens``; together with
    ``reserve`` and ``free`` to ``context_window``.

    Attributes:
        context_window: What the window holds.
        prompt_tokens: Length of the prompt, exactly.
        reserve_tokens: Kept free for the reply.
        segments: In the order of the prompt, then reserve, then free.
        dropped_message_ids: All messages the model no longer sees, oldest first.
        newly_dropped_message_ids: Those of them that this send drops.
        newly_dropped_tokens: What those took up in the window before this send; ``None`` where they are thousands that
            have never been counted (see `Session.message_tokens`).
        newly_dropped_turns: How many turns they are.
        message_tokens: What each message in the window takes up, its share of the template included; 0 for one that
            the template leaves out.
        exact: Whether the tokens were counted with the model's own tokenizer. Where only a server has that, they may be
            estimates; then every shell says "about".
    """

    context_window: int
    prompt_tokens: int
    reserve_tokens: int
    segments: tuple[Segment, ...]
    dropped_message_ids: tuple[str, ...] = ()
    newly_dropped_message_ids: tuple[str, ...] = ()
    newly_dropped_tokens: int | None = 0
    newly_dropped_turns: int = 0
    message_tokens: dict[str, int] = field(default_factory=dict)
    exact: bool = True

    @property
    def free_tokens(self) -> int:
        """Tokens that are neither prompt nor reserve."""
        return self.context_window - self.prompt_tokens - self.reserve_tokens


@dataclass(frozen=True, slots=True)
class ChatStarted:
    """The user's message is part of the conversation, and the reply begins.

    Attributes:
        conversation: Name of the conversation.
        message_id: Id of the user's message.
        reply_id: Id of the reply, which is empty so far.
        window: What the model gets to see, exactly.
    """

    conversation: str
    message_id: str
    reply_id: str
    window: WindowReport


@dataclass(frozen=True, slots=True)
class ChatFinished:
    """The reply is part of the conversation.

    Attributes:
        conversation: Name of the conversation.
        message_id: Id of the reply.
        text: The whole reply; where one was continued, with what it had before.
        finish_reason: Why it ended; a cancelled reply is kept as far as it got.
        stats: Figures.
        window: The window with the reply in it.
    """

    conversation: str
    message_id: str
    text: str
    finish_reason: FinishReason
    stats: GenerationStats
    window: WindowReport


EngineEvent: TypeAlias = Union[Notice, PrefillProgress, TextDelta, GenerationFinished]
ChatEvent: TypeAlias = Union[Notice, ChatStarted, PrefillProgress, TextDelta, ChatFinished]
