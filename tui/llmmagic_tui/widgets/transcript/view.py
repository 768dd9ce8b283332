"""The transcript widget: a conversation that can be read, scrolled and acted on.

A conversation may have 10,000 messages: none of them is a widget. `scrolling` measures what comes into view, `drawing`
draws it, and this module says what is shown and what a key or a click means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.message import Message as TextualMessage

from llmmagic_tui.bindings import TRANSCRIPT
from llmmagic_tui.widgets.transcript.drawing import DrawnMessages, WindowState
from llmmagic_tui.widgets.transcript.layout import Stack
from llmmagic_tui.widgets.transcript.message import Counter, estimate

if TYPE_CHECKING:
    from textual import events
    from textual.binding import BindingType

    from llmmagic.core.chat.messages import Message


class Transcript(DrawnMessages, can_focus=True):
    """A conversation that can be read, scrolled, selected from and acted on."""

    BINDINGS: ClassVar[list[BindingType]] = [*TRANSCRIPT]
    DEFAULT_CSS = """
    Transcript { height: 1fr; padding: 0 0 0 1; overflow-x: hidden; scrollbar-gutter: stable; }
    """

    class Do(TextualMessage):
        """Something was clicked that stands for an action of the screen.

        Attributes:
            action: Its name, with its argument: ``"branch(1)"``.
        """

        def __init__(self, action: str) -> None:
            self.action = action
            super().__init__()

    class LinkClicked(TextualMessage):
        """A link in a message was clicked. Where it leads has not been checked."""

        def __init__(self, address: str) -> None:
            self.address = address
            super().__init__()

    class CodeCopied(TextualMessage):
        """The ``copy`` of a code block was clicked."""

        def __init__(self, code: str) -> None:
            self.code = code
            super().__init__()

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._index: dict[str, int] = {}

    # --- content --------------------------------------------------------------------------------------------------

    @property
    def messages(self) -> Sequence[Message]:
        """What is shown, oldest first."""
        return self._messages

    @property
    def selected(self) -> Message | None:
        """The message under the cursor, while keys go here."""
        return None if self.cursor is None or not self.has_focus else self._messages[self.cursor]

    @property
    def is_live(self) -> bool:
        """Whether a reply is being written here."""
        return self._live is not None

    def show(self, messages: Sequence[Message], branch: Callable[[str], tuple[int, int]]) -> None:
        """Show a conversation, or its new state.

        Args:
            messages: The active path, oldest first.
            branch: Which of how many siblings a message is, by its id.
        """
        selected = None if self.cursor is None else self._messages[self.cursor]
        # What is the same up to here keeps its height, and with it the place of what is on screen.
        same = 0
        for old, new in zip(self._messages, messages, strict=False):
            if old.id != new.id:
                break
            same += 1
        if not same:
            self._following = True
        heights = [self._stack[index] for index in range(same)] if self._width else []
        self._messages = list(messages)
        self._index = {message.id: index for index, message in enumerate(self._messages)}
        self._branch = branch
        for message_id in [each for each in self._bodies if each not in self._index]:
            del self._bodies[message_id]
        heights += [estimate(message, self._width) for message in self._messages[len(heights) :]]
        self._stack = Stack(heights)
        self._place_rule()
        self.cursor = None if selected is None else self._index.get(selected.id)
        self._settle()
        if not self._messages and self.has_focus:
            self.action_write()

    def set_window(self, window: WindowState) -> None:
        """Show what the model sees."""
        if window != self._window:
            self._window = window
            self._place_rule()
            self._settle()

    def set_counter(self, count_tokens: Counter | None) -> None:
        """Show lengths in tokens.

        Args:
            count_tokens: Of the model that is loaded; another function for another model. ``None`` where asking takes
                longer than drawing may: lengths are then in words.
        """
        self._count_tokens = count_tokens
        self._settle()

    def resume_reply(self, message_id: str) -> None:
        """Let a reply that is shown grow on."""
        self._live = message_id
        self._settle()

    def stream(self, text: str) -> None:
        """Add text to the reply that is being written."""
        if self._live is not None and text:
            self._body(self._messages[self._index[self._live]]).append(text)
            self._drawn.pop(self._live, None)
            self._settle()

    def end_reply(self) -> None:
        """No more text comes."""
        self._live = None
        self._settle()

    # --- cursor ---------------------------------------------------------------------------------------------------

    def validate_cursor(self, cursor: int | None) -> int | None:
        """Keep it on a message."""
        if cursor is None or not self._messages:
            return None
        return min(max(cursor, 0), len(self._messages) - 1)

    def watch_cursor(self) -> None:
        """Bring the selected message into view."""
        if self.cursor is not None and self.size.height:
            self._measure(self.cursor)
            top, height = self._stack.top(self.cursor), self._stack[self.cursor]
            room = self.size.height
            if top < self.scroll_y or height > room:
                self._go(top)
            elif top + height > self.scroll_y + room:
                self._go(top + height - room)
        self._settle()

    def move_cursor(self, step: int) -> None:
        """Select another message; from none, the last one on screen."""
        if not self._messages:
            return
        if self.cursor is None:
            self.cursor = self._stack.at(int(self.scroll_y) + self.size.height - 1)[0]
        else:
            self.cursor += step

    def action_move(self, step: int) -> None:
        """Select the message above or below."""
        self.move_cursor(step)

    def action_first(self) -> None:
        """Select the first message."""
        self.cursor = 0

    def action_last(self) -> None:
        """Select the last message."""
        self.cursor = len(self._messages) - 1
        self.follow()

    def action_write(self) -> None:
        """Back to the input."""
        self.post_message(self.Do("write"))

    def action_do(self, action: str) -> None:
        """Do something with the selected message."""
        self.post_message(self.Do(action))

    def toggle_thinking(self, message_id: str) -> None:
        """Fold the thinking part of a message, or unfold it."""
        self._unfolded ^= {message_id}
        self._settle()

    def allow_focus(self) -> bool:
        """Without messages there is nothing to select: keys belong into the input."""
        return super().allow_focus() and bool(self._messages)

    def on_focus(self) -> None:
        """A focused transcript has a cursor; it is drawn once `has_focus` is true."""
        self.call_later(self._settle if self.cursor is not None else lambda: self.move_cursor(0))

    def on_blur(self) -> None:
        """Keys go elsewhere; the cursor is kept for when they come back."""
        self.call_later(self._settle)

    def _place_rule(self) -> None:
        """The rule stands above the first message after the last one that is out."""
        last = max((self._index[each] for each in self._window.out if each in self._index), default=None)
        self._rule_at = None
        if last is not None and last + 1 < len(self._messages):
            self._rule_at = self._messages[last + 1].id

    def on_click(self, event: events.Click) -> None:
        """Act on what is under the mouse; anywhere else in a message selects it."""
        if not self._messages:
            self.action_write()
            return
        line = int(self.scroll_y) + event.get_content_offset_capture(self).y
        if line < self._stack.height:
            self.cursor = self._stack.at(line)[0]
        meta = event.style.meta
        if "link" in meta:
            self.post_message(self.LinkClicked(meta["link"]))
        elif "copy" in meta:
            self.post_message(self.CodeCopied(meta["copy"]))
        elif "do" in meta:
            self.post_message(self.Do(meta["do"]))
