"""Where the message is written."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import BindingType
from textual.message import Message
from textual.widgets import TextArea

from llmmagic.core.sanitize import strip_controls
from llmmagic_tui.bindings import COMPOSER

_HISTORY = 200


class Composer(TextArea):
    """A text area that grows to a third of the screen, sends with Enter and remembers what was sent."""

    BINDINGS: ClassVar[list[BindingType]] = [*COMPOSER]

    class Sent(Message):
        """Enter was pressed."""

        def __init__(self, text: str) -> None:
            self.text = text
            super().__init__()

    class Scrolled(Message):
        """Page up or down was pressed: that means the transcript.

        Attributes:
            pages: -1 up, 1 down.
        """

        def __init__(self, pages: int) -> None:
            self.pages = pages
            super().__init__()

    def __init__(self, placeholder: str, *, id: str | None = None) -> None:
        super().__init__(
            id=id,
            soft_wrap=True,
            show_line_numbers=False,
            tab_behavior="focus",
            highlight_cursor_line=False,
            placeholder=placeholder,
        )
        self._history: list[str] = []
        self._at: int | None = None  # where in the history; None is the draft
        self._draft = ""

    def action_send(self) -> None:
        """Send what is written."""
        # Later: the app runs this before the keys that were pressed just before have arrived here.
        self.call_later(lambda: self.post_message(self.Sent(self.text)))

    def action_newline(self) -> None:
        """Begin a new line."""
        self.call_later(self.insert, "\n")

    def remember(self, text: str) -> None:
        """Keep what was sent for the up key."""
        if text.strip() and (not self._history or self._history[-1] != text):
            self._history = [*self._history, text][-_HISTORY:]
        self._at = None

    def set_history(self, texts: list[str]) -> None:
        """Start with what was sent earlier, oldest first."""
        # Of a conversation that was imported, or written by another program.
        self._history = [strip_controls(text) for text in texts[-_HISTORY:]]
        self._at = None

    def action_cursor_up(self, select: bool = False) -> None:
        """In the first line: the message before."""
        if select or self.get_cursor_up_location() != (0, 0) or self.cursor_location[0] != 0 or not self._history:
            super().action_cursor_up(select)
            return
        if self._at is None:
            self._draft = self.text
            self._at = len(self._history)
        if self._at > 0:
            self._at -= 1
            self._put(self._history[self._at])

    def action_cursor_down(self, select: bool = False) -> None:
        """In the last line of a message from the history: the message after."""
        if select or self._at is None or self.cursor_location[0] < self.document.line_count - 1:
            super().action_cursor_down(select)
            return
        self._at += 1
        if self._at >= len(self._history):
            self._at = None
            self._put(self._draft)
        else:
            self._put(self._history[self._at])

    def action_cursor_page_up(self) -> None:
        """Scroll the transcript up."""
        self.post_message(self.Scrolled(-1))

    def action_cursor_page_down(self) -> None:
        """Scroll the transcript down."""
        self.post_message(self.Scrolled(1))

    def _put(self, text: str) -> None:
        self.text = text
        self.move_cursor(self.document.end)
