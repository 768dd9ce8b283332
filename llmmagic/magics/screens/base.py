"""What a front end can do."""

from __future__ import annotations

from typing import Protocol, TypeVar

from llmmagic.magics.views.card import Card
from llmmagic.magics.views.reply import ReplyCard

S = TypeVar("S", contravariant=True)


class Screen(Protocol[S]):
    """A place where one operation is drawn.

    ``draw`` may be called often; ``close`` is called once, whatever happened, and leaves behind what is to be kept.
    """

    def draw(self, state: S) -> None:
        """Show how things are now."""
        ...

    def close(self, state: S) -> None:
        """Show how things ended, for good."""
        ...


class FrontEnd(Protocol):
    """Where a shell shows things."""

    @property
    def colour(self) -> bool:
        """Whether ANSI colours are understood in an error."""
        ...

    @property
    def attended(self) -> bool | None:
        """Whether someone is there to use a widget; ``None`` where there are no widgets at all."""
        ...

    def card_screen(self) -> Screen[Card]:
        """A place for a card that changes."""
        ...

    def reply_screen(self, *, raw: bool) -> Screen[ReplyCard]:
        """A place for a reply that grows; `raw` is for the text as the model wrote it."""
        ...

    def show(self, card: Card) -> None:
        """Show a card that does not change."""
        ...

    def say(self, text: str) -> None:
        """Show one line."""
        ...
