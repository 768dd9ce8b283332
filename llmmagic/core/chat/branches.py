"""Messages as a tree: who follows whom, and which way was last gone."""

from __future__ import annotations

from llmmagic.core.chat.messages import Message
from llmmagic.core.errors import ConversationNotFoundError


class Branches:
    """A tree that only grows. One thread may change it while others read.

    Attributes:
        messages: All of them by id, parents before children.
    """

    def __init__(self) -> None:
        self.messages: dict[str, Message] = {}
        self._children: dict[str | None, tuple[str, ...]] = {}
        self._chosen: dict[str | None, str] = {}  # parent -> the child last gone to

    def __getitem__(self, message_id: str) -> Message:
        """The message of that id.

        Raises:
            ConversationNotFoundError: There is none.
        """
        try:
            return self.messages[message_id]
        except KeyError:
            raise ConversationNotFoundError(
                f"No message {message_id!r} in this conversation.", hint="It may belong to another one."
            ) from None

    def put(self, message: Message) -> None:
        """Add a message, or a new value of one."""
        known = message.id in self.messages
        self.messages[message.id] = message
        if not known:
            self._children[message.parent] = (*self._children.get(message.parent, ()), message.id)

    def way_to(self, leaf: str | None) -> list[Message]:
        """Messages from the root to one of them."""
        way: list[Message] = []
        while leaf is not None:
            message = self[leaf]
            way.append(message)
            leaf = message.parent
        way.reverse()
        return way

    def family(self, message_id: str) -> tuple[str, ...]:
        """A message and its siblings, oldest first."""
        return self._children[self[message_id].parent]

    def end_below(self, message_id: str) -> str:
        """The leaf where the way through a message last ended."""
        leaf = self[message_id].id
        while leaf in self._children:
            leaf = self._chosen.get(leaf, self._children[leaf][-1])
        return leaf

    def choose(self, leaf: str | None, *, before: str | None) -> None:
        """Remember the way to a leaf.

        Args:
            leaf: Where the way ends.
            before: Where it ended before.
        """
        if leaf is None or leaf == before:
            return
        if (parent := self[leaf].parent) is not None and parent == before:
            self._chosen[parent] = leaf  # one step on, the way there is remembered already
            return
        for message in self.way_to(leaf):
            self._chosen[message.parent] = message.id
