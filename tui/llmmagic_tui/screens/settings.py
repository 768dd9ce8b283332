"""Settings that can change while the app runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, get_args

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select

from llmmagic.core.config import Overflow
from llmmagic.core.errors import ConfigError
from llmmagic_tui.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

_FIELDS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("max_new_tokens", "Longest reply, in tokens", int),
    ("temperature", "Temperature (0 is greedy)", float),
    ("top_p", "Top p", float),
    ("top_k", "Top k (0 is off)", int),
    ("repetition_penalty", "Repetition penalty (1 is off)", float),
    ("seed", "Seed (empty: another reply each time)", int),
)
_POLICIES = {"rolling": "drop the oldest turns", "stop": "refuse to send"}


class SettingsScreen(ModalScreen[Settings | None]):
    """Sampling, reply length, and what happens when the window is full. For this run of the app."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "save", "Save", priority=True, id="dialog_save"),
        Binding("escape", "cancel", "Cancel", id="dialog_cancel"),
    ]

    def __init__(self, settings: Settings) -> None:
        """Start from what is set.

        Args:
            settings: As they are now.
        """
        super().__init__()
        self._settings = settings

    def compose(self) -> ComposeResult:
        """One row a setting."""
        with Vertical(classes="dialog"):
            yield Label("Settings", classes="dialog-title", markup=False)
            for name, words, _ in _FIELDS:
                value = getattr(self._settings.generation, name)
                with Horizontal(classes="dialog-row"):
                    yield Label(words, classes="dialog-field", markup=False)
                    yield Input("" if value is None else str(value), id=name, placeholder="the model's own")
            with Horizontal(classes="dialog-row"):
                yield Label("When the window is full", classes="dialog-field", markup=False)
                choices = [(_POLICIES[name], name) for name in get_args(Overflow)]
                yield Select(choices, value=self._settings.overflow, allow_blank=False, id="overflow", compact=True)
            yield Label("", id="problem", markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button("Save (Ctrl+S)", id="save", variant="primary", compact=True)
                yield Button("Cancel (Esc)", id="cancel", compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in any field saves."""
        event.stop()
        self.action_save()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Save or leave."""
        self.action_save() if event.button.id == "save" else self.action_cancel()

    def action_save(self) -> None:
        """Check and answer with the new settings."""
        values: dict[str, Any] = {"overflow": self.query_one("#overflow", Select).value}
        for name, words, kind in _FIELDS:
            text = self.query_one(f"#{name}", Input).value.strip()
            try:
                values[name] = kind(text) if text else None
            except ValueError:
                self.query_one("#problem", Label).update(f"{words}: {text!r} is no number.")
                return
        if values["max_new_tokens"] is None:
            values["max_new_tokens"] = self._settings.generation.max_new_tokens
        try:
            self.dismiss(self._settings.changed(values))
        except ConfigError as err:
            self.query_one("#problem", Label).update(str(err))

    def action_cancel(self) -> None:
        """Leave everything as it is."""
        self.dismiss(None)
