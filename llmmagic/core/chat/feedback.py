"""What people thought of replies, as rows to train on.

The rows have the conversational forms that TRL reads: preference pairs for DPO, rated replies for KTO
(https://huggingface.co/docs/trl/dataset_formats).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypedDict

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


@dataclass(frozen=True, slots=True)
class Feedback:
    """Rows to train on.

    Attributes:
        pairs: From better answers that people wrote, and from replies to one message that were rated differently.
        rated: From ratings alone.
    """

    pairs: list[PreferencePair] = field(default_factory=list)
    rated: list[RatedReply] = field(default_factory=list)


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
    feedback = Feedback()
    for message in conversation:
        if message.role != "assistant" or not message.content:
            continue
        prompt = chat_messages(conversation, message.parent)
        if message.better:
            feedback.pairs.append(
                PreferencePair(prompt=prompt, chosen=_reply(message.better), rejected=_reply(message.content))
            )
        for other in conversation.siblings(message.id):
            if other.content and _rank(message) > _rank(other):
                feedback.pairs.append(
                    PreferencePair(prompt=prompt, chosen=_reply(message.content), rejected=_reply(other.content))
                )
        if message.rating is not None:
            feedback.rated.append(
                RatedReply(prompt=prompt, completion=_reply(message.content), label=message.rating > 0)
            )
    return feedback


def _rank(message: Message) -> int:
    return message.rating or 0


def _reply(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="assistant", content=text)]
