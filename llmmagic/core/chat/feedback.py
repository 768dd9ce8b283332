"""What people thought of replies, as rows to train on.

The rows have the conversational forms that TRL reads: preference pairs for DPO, rated replies for KTO, whole messages
for supervised fine-tuning (https://huggingface.co/docs/trl/dataset_formats).

What is better than what: a reply that a person wrote or corrected, before one that was rated good, before one that was
not rated, before one that was rated bad. Between replies that stand equal, the one that the conversation went on from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from llmmagic.core.chat.messages import Message
from llmmagic.core.chat.tree import Conversation


class ChatMessage(TypedDict):
    """One message as chat templates and training read it."""

    role: str
    content: str


class PreferencePair(TypedDict):
    """Two replies to the same messages, one of them better."""

    prompt: list[ChatMessage]
    chosen: list[ChatMessage]
    rejected: list[ChatMessage]


class RatedReply(TypedDict):
    """A reply that was found good or bad."""

    prompt: list[ChatMessage]
    completion: list[ChatMessage]
    label: bool


class Dialogue(TypedDict):
    """Messages that end with a reply worth learning."""

    messages: list[ChatMessage]


Unusable = Literal["without a rating or another reply", "stopped before their end"]
"""Why a reply says nothing to a method."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """Rows to train on.

    Attributes:
        pairs: From better answers that people wrote, and from replies to one message of which one was preferred.
        rated: From ratings alone.
        answers: Better answers, and replies that were rated good.
        unusable: How many replies were left out of all of these, by the reason.
        uncompared: Replies that were rated, but have no other to compare with: nothing for pairs.
    """

    pairs: list[PreferencePair] = field(default_factory=list)
    rated: list[RatedReply] = field(default_factory=list)
    answers: list[Dialogue] = field(default_factory=list)
    unusable: Counter[Unusable] = field(default_factory=Counter)
    uncompared: int = 0


def merged(parts: Iterable[Feedback]) -> Feedback:
    """The feedback of many conversations as one."""
    parts = list(parts)
    return Feedback(
        pairs=[pair for part in parts for pair in part.pairs],
        rated=[row for part in parts for row in part.rated],
        answers=[answer for part in parts for answer in part.answers],
        unusable=sum((part.unusable for part in parts), Counter()),
        uncompared=sum(part.uncompared for part in parts),
    )


def chat_messages(conversation: Conversation, leaf: str | None) -> list[ChatMessage]:
    """The system prompt, if it has one of its own, and the messages down to a leaf; empty ones are left out."""
    path = [] if leaf is None else conversation.path(leaf)
    said = [ChatMessage(role=message.role, content=message.content) for message in path if message.content]
    return [ChatMessage(role="system", content=conversation.system), *said] if conversation.system else said


def feedback_of(conversation: Conversation) -> Feedback:
    """Collect what was thought of the replies of one conversation.

    Args:
        conversation: With all its branches.

    Returns:
        Its rows, in the order of the replies.
    """
    feedback, uncompared = Feedback(), 0
    answered = {message.parent for message in conversation}
    for message in conversation:
        if message.role != "assistant" or not message.content:
            continue
        if message.partial and not message.better:
            feedback.unusable["stopped before their end"] += 1
            continue
        prompt = chat_messages(conversation, message.parent)
        pairs = _pairs(conversation, message, prompt, answered)
        feedback.pairs.extend(pairs)
        feedback.rated.extend(_rated(message, prompt))
        if learnt := message.better or (message.content if _rank(message) > 0 else None):
            feedback.answers.append(Dialogue(messages=[*prompt, *_reply(learnt)]))
        compared = bool(pairs) or any(_worse(message, other, answered) for other in _others(conversation, message))
        if not compared and message.rating is not None:
            uncompared += 1
        elif not compared and not message.better:
            feedback.unusable["without a rating or another reply"] += 1
    return Feedback(feedback.pairs, feedback.rated, feedback.answers, feedback.unusable, uncompared)


def _pairs(
    conversation: Conversation, message: Message, prompt: list[ChatMessage], answered: set[str | None]
) -> list[PreferencePair]:
    """Those in which a reply is the chosen one, and the one in which its better version is."""
    pairs = []
    if message.better and message.better != message.content:
        pairs.append(PreferencePair(prompt=prompt, chosen=_reply(message.better), rejected=_reply(message.content)))
    if message.partial:
        return pairs
    for other in _others(conversation, message):
        if _worse(other, message, answered) and other.content != message.content:
            pairs.append(PreferencePair(prompt=prompt, chosen=_reply(message.content), rejected=_reply(other.content)))
    return pairs


def _rated(message: Message, prompt: list[ChatMessage]) -> list[RatedReply]:
    if message.rating is None or message.partial:
        return []
    return [RatedReply(prompt=prompt, completion=_reply(message.content), label=message.rating > 0)]


def _others(conversation: Conversation, message: Message) -> list[Message]:
    """Other whole replies to the same message."""
    return [
        other
        for other in conversation.siblings(message.id)
        if other.id != message.id and other.content and not other.partial and other.role == "assistant"
    ]


def _worse(message: Message, other: Message, answered: set[str | None]) -> bool:
    """Whether a reply is worse than another to the same message."""
    mine, theirs = _rank(message), _rank(other)
    return mine < theirs or (mine == theirs and message.id not in answered and other.id in answered)


def _rank(message: Message) -> int:
    if message.rating is None and message.model_id is None and message.finish_reason is None:
        return 2  # no model wrote it: a person did, in place of a reply
    return message.rating or 0


def _reply(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="assistant", content=text)]
