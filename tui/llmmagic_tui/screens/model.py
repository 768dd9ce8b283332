"""Which model to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select

from llmmagic.core.config import LoadConfig, Quantization
from llmmagic.core.errors import ConfigError

if TYPE_CHECKING:
    from llmmagic_tui.settings import Settings


@dataclass(frozen=True)
class ModelChoice:
    """What was chosen."""

    model_id: str
    quantization: Quantization
    adapter: str | None
    base_url: str | None


class ModelScreen(ModalScreen[ModelChoice | None]):
    """Ask for model, quantisation, adapter and server."""

    CSS_PATH = "dialogs.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", "Cancel", id="dialog_cancel")]

    def __init__(self, settings: Settings) -> None:
        """Start from what is set.

        Args:
            settings: As they are now.
        """
        super().__init__()
        self._config = settings.load_config()

    def compose(self) -> ComposeResult:
        """Four fields."""
        with Vertical(classes="dialog"):
            yield Label("Load a model", classes="dialog-title", markup=False)
            yield Label("Hub id (org/name), folder, .gguf file, demo or tiny-random", classes="dialog-field")
            yield Input(self._config.model_id, id="model")
            yield Label("Quantisation", classes="dialog-field")
            names = [(name, name) for name in get_args(Quantization)]
            yield Select(names, value=self._config.quantization, allow_blank=False, id="quantization", compact=True)
            yield Label("Adapter (folder or Hub id), if any", classes="dialog-field")
            yield Input(self._config.adapter or "", id="adapter")
            yield Label("Server (address) that it runs on, if not here", classes="dialog-field")
            yield Input(self._config.base_url or "", id="server")
            yield Label("", id="problem", markup=False)
            with Horizontal(classes="dialog-buttons"):
                yield Button("Load (Enter)", id="load", variant="primary", compact=True)
                yield Button("Cancel (Esc)", id="cancel", compact=True)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter in any field loads."""
        event.stop()
        self._load()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Load or leave."""
        self._load() if event.button.id == "load" else self.action_cancel()

    def _load(self) -> None:
        model_id = self.query_one("#model", Input).value.strip()
        adapter = self.query_one("#adapter", Input).value.strip() or None
        quantization = next(
            each for each in get_args(Quantization) if each == self.query_one("#quantization", Select).value
        )
        base_url = self.query_one("#server", Input).value.strip() or None
        if base_url is not None:
            quantization = "auto"  # how a server keeps its weights is its own affair
        try:
            LoadConfig(model_id=model_id, quantization=quantization, adapter=adapter, base_url=base_url)
        except ConfigError as err:
            self.query_one("#problem", Label).update(str(err))
            return
        self.dismiss(ModelChoice(model_id, quantization, adapter, base_url))

    def action_cancel(self) -> None:
        """Leave everything as it is."""
        self.dismiss(None)
