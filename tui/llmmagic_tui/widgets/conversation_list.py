"""The list of conversations: search on top, below it one line each, grouped by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from llmmagic.core.sanitize import one_line
from llmmagic_tui.bindings import CONVERSATIONS
from llmmagic_tui.themes import Inks

_SEARCH_DELAY_S = 0.15
_TITLE = 60


@dataclass(frozen=True)
class Entry:
    """One conversation of the list.

    Attributes:
        id: Of the conversation.
        title: What it is called; untrusted.
        updated: When something was last said in it.
        excerpt: Where the search words stand in it; untrusted, empty without a search.
    """

    id: str
    title: str
    updated: datetime
    excerpt: str = ""


def day_name(moment: datetime, today: date) -> str:
    """What the group is called that a moment falls into.

    Args:
        moment: With a time zone; it counts where this machine is.
        today: The day it is.
    """
    day = moment.astimezone().date()
    age = (today - day).days
    if age <= 0:
        return "Today"
    if age == 1:
        return "Yesterday"
    if age < 7:
        return day.strftime("%A")
    return f"{day.day} {day:%B}" if age < 31 else f"{day:%B %Y}"


class _Options(OptionList):
    """The lines; keys act on the one that is highlighted."""

    BINDINGS: ClassVar[list[BindingType]] = [*CONVERSATIONS]

    def action_search(self) -> None:
        self.screen.query_one("#search", Input).focus()

    def _ask(self, what: str) -> None:
        option = self.highlighted_option
        if option is not None and option.id is not None:
            self.post_message(ConversationList.Asked(what, option.id))

    def action_rename(self) -> None:
        self._ask("rename")

    def action_delete(self) -> None:
        self._ask("delete")

    def action_open_beside(self) -> None:
        self._ask("open_beside")

    def action_undo(self) -> None:
        self.post_message(ConversationList.Asked("undo", ""))


class ConversationList(Vertical):
    """Search field and list."""

    DEFAULT_CSS = """
    ConversationList { width: 32; background: $surface; }
    ConversationList > Input { border: none; height: 1; margin: 0 1 1 1; padding: 0 1; background: $panel; }
    ConversationList > Input:focus { background: $panel-lighten-1; border: none; }
    ConversationList > _Options {
        height: 1fr;
        border: none;
        padding: 0;
        background: $surface;
        text-wrap: nowrap;
        text-overflow: ellipsis;
    }
    """

    class Opened(Message):
        """A conversation was chosen."""

        def __init__(self, conversation_id: str) -> None:
            self.conversation_id = conversation_id
            super().__init__()

    class Asked(Message):
        """Something is to be done with a conversation.

        Attributes:
            what: ``rename``, ``delete``, ``open_beside`` or ``undo``.
            conversation_id: Which; empty for ``undo``.
        """

        def __init__(self, what: str, conversation_id: str) -> None:
            self.what = what
            self.conversation_id = conversation_id
            super().__init__()

    class Searched(Message):
        """The search words changed."""

        def __init__(self, words: str) -> None:
            self.words = words
            super().__init__()

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._entries: list[Entry] = []
        self._open: tuple[str, ...] = ()
        self._input = Input(placeholder="Search all messages", id="search", compact=True)
        self._options = _Options(id="conversation-options", markup=False)

    def compose(self) -> ComposeResult:
        """Search field, then list."""
        yield self._input
        yield self._options

    def on_mount(self) -> None:
        """Learn about theme changes: the lines have colours of their own."""
        self.app.theme_changed_signal.subscribe(self, lambda _: self._fill())
        self._timer = self.set_interval(_SEARCH_DELAY_S, self._search, pause=True)

    @property
    def words(self) -> str:
        """What is searched for."""
        return self._input.value.strip()

    @property
    def entries(self) -> Sequence[Entry]:
        """What is listed, newest first."""
        return self._entries

    def show(self, entries: Sequence[Entry], opened: Sequence[str]) -> None:
        """Show conversations, newest first.

        Args:
            entries: All of them.
            opened: Ids of those that are on screen.
        """
        entries, open_ids = list(entries), tuple(opened)
        if (entries, open_ids) != (self._entries, self._open):
            self._entries, self._open = entries, open_ids
            self._fill()

    def _fill(self) -> None:
        options = self._options
        highlighted = options.highlighted_option
        inks = Inks.of(self.app.get_css_variables())
        # Grouping asks for a date, and dates are local: the app's clock, which tests set.
        today = datetime.now().astimezone().date()
        lines: list[Option] = []
        group = ""
        for entry in self._entries:
            name = day_name(entry.updated, today)
            if name != group:
                group = name
                lines.append(Option(Text(f" {name}", inks.faint), disabled=True))
            mark = "▸" if entry.id in self._open else " "
            title = one_line(entry.title, _TITLE) or "New conversation"
            text = Text(f"{mark} {title}", inks.text, no_wrap=True, overflow="ellipsis")
            if entry.excerpt:
                text.append(f"\n    {one_line(entry.excerpt, _TITLE)}", inks.muted)
            lines.append(Option(text, id=entry.id))
        if not lines:
            words = "Nothing found" if self.words else "No conversations yet"
            lines.append(Option(Text(f" {words}", inks.faint), disabled=True))
        options.clear_options()
        options.add_options(lines)
        wanted = highlighted.id if highlighted is not None else (self._open[0] if self._open else None)
        if wanted is not None and any(entry.id == wanted for entry in self._entries):
            options.highlighted = options.get_option_index(wanted)

    def focus_search(self) -> None:
        """Go to the search field."""
        self._input.focus()

    @on(Input.Changed, "#search")
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        self._timer.reset()
        self._timer.resume()

    def _search(self) -> None:
        self._timer.pause()
        self.post_message(self.Searched(self.words))

    @on(Input.Submitted, "#search")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self._search()
        self._options.focus()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_id is not None:
            self.post_message(self.Opened(event.option_id))

    def on_key(self, event: object) -> None:
        """Down from the search field goes to the list."""
        if getattr(event, "key", "") == "down" and self._input.has_focus:
            self._options.focus()
