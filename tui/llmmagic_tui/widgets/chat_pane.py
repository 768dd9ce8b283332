"""One conversation on screen: its title, its transcript, its context window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widget import Widget

from llmmagic.core.sanitize import one_line
from llmmagic_tui.themes import Inks
from llmmagic_tui.widgets.context_bar import ContextBar
from llmmagic_tui.widgets.transcript import Transcript, WindowState

if TYPE_CHECKING:
    from llmmagic.core.chat.tree import Conversation
    from llmmagic.core.events import WindowReport

NEW_TITLE = "New conversation"


def welcome(send: str, help: str) -> tuple[str, ...]:
    """What a new conversation begins with, in paragraphs.

    Args:
        send: Name of the key that sends.
        help: Name of the key that shows all keys.
    """
    return (
        f"Write below and press {send}.",
        "",
        "The bar shows what of the conversation the model can see, in tokens: the template, the system prompt, "
        "each turn, what you are typing, and what is kept free for the reply.",
        "",
        f"{help} shows all keys.",
    )


class PaneTitle(Widget):
    """One line: which conversation this is."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    PaneTitle { height: 1; padding: 0 1; background: $surface; }
    """

    def __init__(self) -> None:
        super().__init__()
        self._title = NEW_TITLE
        self._note = ""

    def show(self, title: str, note: str) -> None:
        """Set title and note."""
        self._title, self._note = title, note
        self.refresh()

    def render(self) -> Text:
        """Title at the left, note at the right."""
        inks = Inks.of(self.app.get_css_variables())
        width = self.size.width
        note = one_line(self._note, max(width // 2, 1))
        title = one_line(self._title, max(width - len(note) - 2, 1))
        gap = max(width - Text(title).cell_len - Text(note).cell_len, 1)
        return Text.assemble((title, inks.bold), " " * gap, (note, inks.muted), no_wrap=True, end="")


class ChatPane(Vertical):
    """One conversation."""

    DEFAULT_CSS = """
    ChatPane { width: 1fr; height: 1fr; }
    ChatPane ContextBar { background: $background; }
    """

    class Chosen(Message):
        """The mouse went into this pane."""

        def __init__(self, pane: ChatPane) -> None:
            self.pane = pane
            super().__init__()

    def __init__(self, greeting: tuple[str, ...], *, id: str) -> None:
        """Show nothing yet.

        Args:
            greeting: What stands where nothing has been said.
            id: Of the widget.
        """
        super().__init__(id=id)
        self._greeting = greeting
        self.conversation: Conversation | None = None
        self.report: WindowReport | None = None
        self.transcript = Transcript()
        self.bar = ContextBar()
        self.title = PaneTitle()

    def compose(self) -> ComposeResult:
        """Title, transcript, bar."""
        yield self.title
        self.transcript.welcome = self._greeting
        yield self.transcript
        yield self.bar

    @property
    def conversation_id(self) -> str | None:
        """Id of the conversation, once there is one."""
        return None if self.conversation is None else self.conversation.id

    def greet(self, lines: tuple[str, ...] | None = None) -> None:
        """What stands where nothing has been said yet.

        Args:
            lines: Paragraphs; how to begin, unless there is something more important.
        """
        self.transcript.welcome = self._greeting if lines is None else lines
        self.transcript.refresh()

    def open(self, conversation: Conversation) -> None:
        """Show another conversation."""
        self.conversation = conversation
        self.report = None
        self.transcript.end_reply()
        self.transcript.set_window(WindowState())
        self.bar.show(None)
        self.refresh_messages()
        self.transcript.follow()

    def refresh_messages(self) -> None:
        """Show the conversation as it is now."""
        if self.conversation is not None:
            self.transcript.show(self.conversation.path(), self.conversation.branch)
            self.refresh_title()

    def refresh_title(self) -> None:
        """Show what the conversation is called."""
        if self.conversation is None:
            return
        first = next((m.content for m in self.transcript.messages if m.role == "user"), "")
        note = "system prompt set" if self.conversation.system else ""
        self.title.show(self.conversation.title or first or NEW_TITLE, note)

    def show_window(self, report: WindowReport | None, error: str = "", *, sent: bool = False) -> None:
        """Show what the model sees.

        Args:
            report: Exact figures, or ``None`` if there are none.
            error: Why the draft cannot be sent, if it cannot.
            sent: The figures are those of a prompt that was sent: what it dropped is gone, not about to go.
        """
        if report is None:
            self.bar.show(None if not error else self.report, error, "error" if error else "info")
            return
        self.report = report
        # Imported here: the first frame is drawn before anything of the core is needed.
        from llmmagic.core.chat.words import view_window

        view = view_window(report, sent=sent)
        self.transcript.set_window(WindowState(view.out, view.leaving, view.cut))
        self.bar.show(report, view.forecast, "warning")

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """A click anywhere makes this the pane that is written to."""
        self.post_message(self.Chosen(self))
