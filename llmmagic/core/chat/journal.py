"""What a conversation tells whoever writes it down. It does not know who that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from llmmagic.core.chat.messages import Message


@dataclass(frozen=True, slots=True)
class Head:
    """What a conversation has besides its messages.

    Attributes:
        id: Unique.
        created: When it began, in UTC.
        updated: When a message was last added or grew, in UTC.
        title: What lists call it; empty until somebody names it.
        system: System prompt. ``None`` leaves it to the model's template, ``""`` is explicitly none.
        leaf: Last message of the active path.
    """

    id: str
    created: datetime
    updated: datetime
    title: str = ""
    system: str | None = None
    leaf: str | None = None


class Journal(Protocol):
    """Who writes a conversation down; a `ConversationStore` is one."""

    def save(self, head: Head, messages: Sequence[Message]) -> None:
        """Write these messages and the conversation's own fields, all or nothing.

        Called before the change can be seen in the conversation: when it raises, the change has not happened.

        Args:
            head: The conversation's fields with the change in them.
            messages: New ones and new values of old ones, parents before children; may be empty.

        Raises:
            StoreError: It could not be written.
        """
        ...
