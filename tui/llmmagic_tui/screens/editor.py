"""A text to write or to change, above everything else."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Label, TextArea

from llmmagic.core.sanitize import strip_controls


class EditorScreen(ModalScreen[str | None]):
    """Ask for a text of any length; the answer is ``None`` when it was left alone."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", priority=True, id="dialog_save"),
        Binding("escape", "cancel", "Cancel", id="dialog_cancel"),
    ]

    def __init__(self, title: str, text: str = "", *, note: str = "", save: str = "Save") -> None:
        """Set the question.

        Args:
            title: What is asked for.
            text: What to start from.
            note: One line about what will happen.
            save: What the button says.
        """
        super().__init__()
        self._title, self._text, self._note, self._save = title, text, note, save

    def compose(self) -> ComposeResult:
        """Title, text, buttons."""
        with Vertical(classes="dialog -tall"):
            yield Label(self._title, classes="dialog-title", markup=False)
            if self._note:
                yield Label(self._note, classes="dialog-note", markup=False)
            yield TextArea(strip_controls(self._text), id="editor", soft_wrap=True, show_line_numbers=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button(f"{self._save} (Ctrl+S)", id="save", variant="primary", compact=True)
                yield Button("Cancel (Esc)", id="cancel", compact=True)

    def on_mount(self) -> None:
        """Start at the end of the text."""
        editor = self.query_one("#editor", TextArea)
        editor.focus()
        editor.move_cursor(editor.document.end)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Save or leave."""
        self.action_save() if event.button.id == "save" else self.action_cancel()

    def action_save(self) -> None:
        """Answer with the text."""
        self.dismiss(self.query_one("#editor", TextArea).text)

    def action_cancel(self) -> None:
        """Answer with nothing."""
        self.dismiss(None)
