"""A conversation: a tree of messages of which one path is in use.

Editing a message or asking for another reply makes a branch beside the old one. Nothing is ever overwritten or removed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from llmmagic.core.chat.branches import Branches
from llmmagic.core.chat.journal import Head, Journal
from llmmagic.core.chat.messages import Message, WindowMark, new_id, now, writable
from llmmagic.core.errors import ChatError, ConfigError
from llmmagic.core.events import FinishReason, Role

_RATINGS = (1, -1, None)


def _line(text: str) -> str:
    return " ".join(writable(text).split())


class Conversation:
    """A tree of messages with an active path.

    All methods may be called from any thread. Reading never waits for another thread's change, which may be waiting for
    a disk.

    Attributes:
        journal: Who writes changes down, if anybody.

    Example:
        >>> conversation = Conversation()
        >>> question = conversation.add("user", "Describe Times New Roman.")
        >>> reply = conversation.add("assistant", "A serif typeface.")
        >>> other = conversation.edit(question.id, "Describe Montserrat.")
        >>> [message.content for message in conversation.path()]
        ['Describe Montserrat.']
        >>> conversation.branch(other.id)
        (2, 2)
        >>> conversation.select(question.id)
        >>> [message.content for message in conversation.path()]
        ['Describe Times New Roman.', 'A serif typeface.']
    """

    def __init__(
        self,
        *,
        title: str = "",
        system: str | None = None,
        head: Head | None = None,
        messages: Iterable[Message] = (),
        journal: Journal | None = None,
    ) -> None:
        """Start a conversation, or put a stored one together.

        Args:
            title: For lists; empty until somebody names it.
            system: System prompt. ``None`` leaves it to the model's template, ``""`` is explicitly none.
            head: Fields of a stored conversation, instead of ``title`` and ``system``.
            messages: Stored messages, parents before children.
            journal: Who writes changes down from now on.
        """
        moment = now()
        self.journal = journal
        self._head = head or Head(
            new_id(), created=moment, updated=moment, title=_line(title), system=system and writable(system)
        )
        self._lock = threading.RLock()
        self._tree = Branches()
        self._path: list[Message] = []  # never changed, only replaced
        for message in messages:
            self._tree.put(message)
        known = self._tree.messages
        if known and self._head.leaf not in known:
            self._head = replace(self._head, leaf=next(reversed(known)))
        self._path = self._tree.way_to(self._head.leaf)
        self._tree.choose(self._head.leaf, before=None)

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """All fields besides the messages."""
        return self._head

    @property
    def id(self) -> str:
        """Unique."""
        return self._head.id

    @property
    def title(self) -> str:
        """What lists call it; empty until somebody names it."""
        return self._head.title

    @title.setter
    def title(self, text: str) -> None:
        with self._lock:
            self._commit(replace(self._head, title=_line(text)))

    @property
    def system(self) -> str | None:
        """System prompt. ``None`` leaves it to the model's template, ``""`` is explicitly none."""
        return self._head.system

    @system.setter
    def system(self, text: str | None) -> None:
        with self._lock:
            self._commit(replace(self._head, system=text and writable(text)))

    @property
    def leaf(self) -> str | None:
        """Id of the last message of the active path; ``None`` while there is none."""
        return self._head.leaf

    def __len__(self) -> int:
        """Messages on all branches."""
        return len(self._tree.messages)

    def __iter__(self) -> Iterator[Message]:
        """All messages of all branches, parents before children."""
        return iter(list(self._tree.messages.values()))

    def __contains__(self, message_id: object) -> bool:
        return message_id in self._tree.messages

    def __getitem__(self, message_id: str) -> Message:
        """The message of that id.

        Raises:
            ConversationNotFoundError: There is none.
        """
        return self._tree[message_id]

    def path(self, leaf: str | None = None) -> list[Message]:
        """The messages from the root to a leaf.

        Args:
            leaf: Where to end; the end of the active path if not given.

        Returns:
            A list of its own, oldest message first.

        Raises:
            ConversationNotFoundError: No message of that id.
        """
        path = self._path
        if leaf is not None and not (path and path[-1].id == leaf):
            return self._tree.way_to(leaf)
        return list(path)

    def siblings(self, message_id: str) -> list[Message]:
        """All answers to the same message, this one included, oldest first."""
        return [self._tree[member] for member in self._tree.family(message_id)]

    def branch(self, message_id: str) -> tuple[int, int]:
        """Which of how many siblings a message is, counted from 1: ``(2, 3)``."""
        family = self._tree.family(message_id)
        return family.index(message_id) + 1, len(family)

    # --- writing --------------------------------------------------------------------------------------------------

    def add(
        self,
        role: Role,
        content: str,
        *,
        parent: str | None = None,
        finish_reason: FinishReason | None = None,
        token_count: int | None = None,
        model_id: str | None = None,
    ) -> Message:
        """Put a message under another one and make it the end of the active path.

        Args:
            role: ``"user"``, ``"assistant"`` or ``"tool"``; the system prompt is `system`.
            content: Its text.
            parent: The message it follows; the end of the active path if not given.
            finish_reason: Why a reply ended. A reply that is only beginning is ``"cancelled"`` until `update` says
                otherwise: should the program die, it is marked as partial already.
            token_count: Tokens of the content, if known.
            model_id: Which model wrote it.

        Returns:
            The message, written down if there is a journal.

        Raises:
            ChatError: A system message.
            ConversationNotFoundError: No such parent.
            StoreError: The journal could not write it; the conversation is as it was.
        """
        if role == "system":
            raise ChatError("A system prompt is no message.", hint="Set conversation.system instead.")
        with self._lock:
            follows = self._head.leaf if parent is None else self[parent].id
            message = Message(
                id=new_id(),
                role=role,
                content=writable(content),
                parent=follows,
                finish_reason=finish_reason,
                token_count=token_count,
                model_id=model_id,
            )
            self._append(message)
            return message

    def edit(self, message_id: str, content: str) -> Message:
        """Say something else instead: a new branch beside the message, which becomes the end of the active path.

        Args:
            message_id: The message to put another one beside. It stays, with all that follows it.
            content: The new text.

        Returns:
            The new message; it is not pinned, rated or partial.
        """
        with self._lock:
            old = self[message_id]
            message = Message(id=new_id(), role=old.role, content=writable(content), parent=old.parent)
            self._append(message)
            return message

    def update(
        self,
        message_id: str,
        *,
        content: str | None = None,
        finish_reason: FinishReason | None = None,
        token_count: int | None = None,
    ) -> Message:
        """Let a reply grow while it is generated, or finish it.

        Args:
            message_id: A reply.
            content: All of its text so far.
            finish_reason: Why it ended.
            token_count: Tokens of the content.

        Returns:
            Its new value.

        Raises:
            ChatError: Not a reply: what the user wrote is edited, which makes a branch.
        """
        with self._lock:
            old = self[message_id]
            if old.role != "assistant":
                raise ChatError(
                    f"Only replies grow, this is a {old.role} message.", hint="Use edit, it keeps the old one."
                )
            grown = replace(
                old,
                content=old.content if content is None else writable(content),
                finish_reason=finish_reason or old.finish_reason,
                token_count=old.token_count if token_count is None else token_count,
            )
            self._commit(replace(self._head, updated=now()), [grown])
            return grown

    def select(self, message_id: str) -> None:
        """Go to the branch that a message is on, and down from it the way that was last gone."""
        with self._lock:
            self._commit(replace(self._head, leaf=self._tree.end_below(message_id)))

    def pin(self, message_id: str) -> Message:
        """Keep a message in the context window when older turns are dropped."""
        with self._lock:
            return self._change(replace(self[message_id], pinned=True))

    def unpin(self, message_id: str) -> Message:
        """Let a pinned message be dropped again."""
        with self._lock:
            return self._change(replace(self[message_id], pinned=False))

    def rate(self, message_id: str, rating: int | None) -> Message:
        """Say whether a message is good.

        Args:
            message_id: Usually a reply.
            rating: 1 good, -1 bad, ``None`` takes the rating back.

        Returns:
            Its new value.

        Raises:
            ConfigError: Another rating.
        """
        if rating not in _RATINGS:
            raise ConfigError(f"rating must be 1, -1 or None, got {rating!r}.")
        with self._lock:
            return self._change(replace(self[message_id], rating=rating))

    def better(self, message_id: str, text: str | None) -> Message:
        """Write what the reply should have been; ``None`` takes it back. The reply itself stays as it is."""
        with self._lock:
            return self._change(replace(self[message_id], better=text and writable(text)))

    def mark(self, message_id: str, mark: WindowMark | None) -> Message:
        """Remember where the context window began when a message was sent. The context window calls this."""
        with self._lock:
            return self._change(replace(self[message_id], mark=mark))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _append(self, message: Message) -> None:
        self._commit(replace(self._head, leaf=message.id, updated=now()), [message])

    def _change(self, message: Message) -> Message:
        if message != self._tree[message.id]:
            self._commit(self._head, [message])
        return message

    def _commit(self, head: Head, messages: Sequence[Message] = ()) -> None:
        """Write a change down, then let it be seen."""
        if self.journal is not None:
            self.journal.save(head, messages)
        for message in messages:
            self._tree.put(message)
        before = self._head.leaf
        self._path = self._tree.way_to(head.leaf)
        self._head = head
        self._tree.choose(head.leaf, before=before)
