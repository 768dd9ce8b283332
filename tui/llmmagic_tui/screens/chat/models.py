"""The model's life: loading, changing, dying, coming back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import assert_never

from llmmagic.core.errors import EngineError, LLMMagicError
from llmmagic.core.sanitize import one_line
from llmmagic_tui.operations import batches
from llmmagic_tui.screens.chat.base import ChatBase
from llmmagic_tui.settings import remember_model
from llmmagic_tui.widgets.status_line import human_bytes

if TYPE_CHECKING:
    from llmmagic.core.config import LoadConfig
    from llmmagic.core.events import LoadEvent
    from llmmagic_tui.screens.model import ModelChoice

_WATCH_S = 1.0
_STAGES = {
    "download": "downloading",
    "convert": "converting",
    "weights": "reading weights",
    "quantize": "quantising",
    "adapter": "loading the adapter",
    "save": "saving to the cache",
}


class ModelControl(ChatBase):
    """Load, watch and restart the model.

    Attributes:
        waiting: Whether a message waits in the input for the model.
        dead: Whether the model's process went away.
    """

    waiting: bool = False
    dead: bool = False

    def on_mount(self) -> None:
        """Watch the model's process."""
        self.set_interval(_WATCH_S, self._watch)

    def send_waiting(self) -> None:
        """Send what waits; see `Replies`."""
        raise NotImplementedError

    def show_waiting(self) -> None:
        """Say at the input whether a message waits, and where it goes."""
        title = ""
        if self.waiting:
            title = f"Sent when the {'reply has ended' if self.writing else 'model is ready'} — Esc takes it back"
        self.composer.border_title = title
        self.composer.border_subtitle = "to both conversations" if self.to_both and self.split else ""
        self.composer.set_class(self.waiting, "-waiting")

    def start_model(self, config: LoadConfig | None = None) -> None:
        """Load a model; without a config the one that is set, anew if it died."""
        if self.running is not None:
            self.say("Something is running: stop it first (Esc).", warning=True)
            return
        settings = self.backend.settings
        chosen = config or replace(settings.load_config(), force=self.dead)
        self.spawn(partial(self._load, chosen), "model")

    async def _load(self, config: LoadConfig) -> None:
        name = config.model_id
        self.status.update(activity="loading", detail=f"loading {name}")
        self.dead = False
        try:
            self.running = operation = self.backend.session.load(config)
            async for batch in batches(operation):
                for event in batch:
                    self._show_load(event, name)
        except LLMMagicError as err:
            self._load_failed(err)
            return
        finally:
            self.running = None
        if self.backend.session.info is None:
            return
        self.refresh_windows()
        await asyncio.to_thread(remember_model, name)
        self.send_waiting()

    def _show_load(self, event: LoadEvent, name: str) -> None:
        # Imported here, so that the first frame does not wait for it: its many dataclasses are made one by one.
        from llmmagic.core.events import Cancelled, LoadFinished, LoadProgress, Notice

        match event:
            case LoadProgress():
                stage = _STAGES[event.stage]
                if event.total:
                    stage += f" {100 * event.done / event.total:.0f}%"
                elif event.unit == "bytes":
                    stage += f" {human_bytes(event.done)}"
                self.status.update(detail=f"loading {name}: {stage} (F9 stops)")
            case Notice():
                self.say(event.text, warning=event.level == "warning")
            case LoadFinished():
                for pane in self.panes:
                    pane.greet()
                self.status.update(
                    activity="ready",
                    detail="",
                    info=event.info,
                    memory_bytes=event.info.memory_bytes,
                    tokens_per_s=None,
                )
            case Cancelled():
                info = self.backend.session.info
                self.status.update(activity="ready" if info else "none", detail="" if info else "no model loaded (F9)")
            case _:
                assert_never(event)

    def _load_failed(self, error: LLMMagicError) -> None:
        info = self.backend.session.info
        alive = info is not None and self.backend.alive
        # The notice goes after some seconds. Why there is no model stays, with the key that tries again.
        detail = "" if alive else f"no model loaded (F9 tries again): {one_line(error.message)}"
        self.status.update(activity="ready" if alive else "none", info=info, detail=detail)
        if not alive:
            reason = ("There is no model.", "", one_line(str(error)), "", "F9 tries again, or takes another one.")
            for pane in self.panes:
                pane.greet(reason)
        self.waiting = False
        self.show_waiting()
        self.complain(error)

    def _watch(self) -> None:
        """Notice a model that died while nobody talked to it."""
        if self.backend.is_open and self.running is None and not self.dead and not self.backend.alive:
            self.model_died(EngineError("The model's process has ended.", hint=""))

    def model_died(self, error: EngineError) -> None:
        """Mark the model as dead; everything said so far is kept."""
        self.dead = True
        self.status.update(activity="dead", detail="the model died — F9 starts it again")
        self.complain(EngineError(error.message, hint="What it had written is kept. F9 starts the model again."))

    def action_model(self) -> None:
        """Start a dead model again; stop one that is loading; otherwise ask which one to load."""
        if self.running is not None and self.status.status.activity == "loading":
            self.running.cancel()
            return
        if self.dead:
            self.start_model()
            return
        from llmmagic_tui.screens.model import ModelScreen

        self.app.push_screen(ModelScreen(self.backend.settings), self._model_chosen)

    def _model_chosen(self, choice: ModelChoice | None) -> None:
        if choice is None:
            return
        self.backend.settings = replace(
            self.backend.settings, model=choice.model_id, quantization=choice.quantization, adapter=choice.adapter
        )
        self.start_model()
