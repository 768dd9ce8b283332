"""All keys, and how to read the screen."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Label, Static

from llmmagic_tui.bindings import GROUPS, Keymap
from llmmagic_tui.themes import Inks

_READING = (
    ("template", "what the model's chat template adds by itself"),
    ("system", "the system prompt"),
    ("pinned", "turns that stay because a message in them is pinned"),
    ("turn", "the turns of the conversation"),
    ("draft", "what you are typing"),
    ("reserve", "kept free for the reply"),
    ("free", "free"),
)


class HelpScreen(ModalScreen[None]):
    """Keys by the place they work in."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,f1", "app.pop_screen", "Close", id="help_close", priority=True)
    ]

    def __init__(self, keymap: Keymap) -> None:
        """Set the keys.

        Args:
            keymap: The keys as the person has set them.
        """
        super().__init__()
        self._keymap = keymap

    def compose(self) -> ComposeResult:
        """Tables of keys, then the legend of the bar."""
        inks = Inks.of(self.app.get_css_variables())
        with VerticalScroll(classes="dialog -wide") as scroll:
            scroll.can_focus = True
            for group in GROUPS:
                yield Label(group.title, classes="dialog-title", markup=False)
                table = Table.grid(padding=(0, 2))
                table.add_column(min_width=16, no_wrap=True)
                table.add_column()
                for binding in group.bindings:
                    keys = [
                        self.app.get_key_display(binding.with_key(key.strip()))
                        for key in self._keymap.of(binding).split(",")
                    ]
                    table.add_row(Text(" or ".join(keys), inks.user), Text(binding.tooltip, inks.text))
                yield Static(table, classes="dialog-detail -keys")
            yield Label("The context bar", classes="dialog-title", markup=False)
            table = Table.grid(padding=(0, 2))
            for kind, words in _READING:
                glyph = {"reserve": "▒▒", "free": "░░"}.get(kind, "██")
                table.add_row(Text(glyph, getattr(inks, kind)), Text(words, inks.text))
            yield Static(table, classes="dialog-detail -keys")
            note = (
                "When the window is full, the oldest turns go: before you send, they are marked with a broken line at "
                "their left; afterwards they stand above a dashed line, greyed. Keys can be changed in the [keys] "
                "table of the configuration file (llmchat path shows where it is)."
            )
            yield Static(Text(note, inks.muted))
            names = ", ".join(Keymap.IDS)
            yield Static(Text(f"\nTheir ids: {names}.", inks.faint))
