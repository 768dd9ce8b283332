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

_WATCH_S, _MEASURE_S = 1.0, 10.0
_STAGES = {
    "download": "downloading",
    "convert": "converting",
    "weights": "reading weights",
    "quantize": "quantising",
    "check": "comparing",
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
        self.set_interval(_MEASURE_S, self.measure_memory)

    def send_waiting(self) -> None:
        """Send what waits; see `Replies`."""
        raise NotImplementedError

    def show_waiting(self) -> None:
        """Say at the input whether a message waits, and where it goes."""
        title = ""
        if self.waiting:
            event = "reply has ended" if self.writing else "model is ready"
            title = f"Sent when the {event} — {self.key('stop')} takes it back"
        self.composer.border_title = title
        self.composer.border_subtitle = "to both conversations" if self.to_both and self.split else ""
        self.composer.set_class(self.waiting, "-waiting")

    def start_model(self, config: LoadConfig | None = None) -> None:
        """Load a model; without a config the one that is set, anew if it died."""
        if self.running is not None:
            self.say(f"Something is running: stop it first ({self.key('stop')}).", warning=True)
            return
        self.spawn(partial(self._load, config or self.backend.settings.load_config()), "model")

    async def _load(self, config: LoadConfig) -> None:
        name = config.title
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
        if config.base_url is None:
            await asyncio.to_thread(remember_model, config.model_id)
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
                self.status.update(detail=f"loading {name}: {stage} ({self.key('model')} stops)")
            case Notice():
                self.say(event.text, warning=event.level == "warning")
            case LoadFinished():
                counter = None if event.info.server is not None else self.backend.session.token_counter()
                for pane in self.panes:
                    pane.greet()
                    pane.transcript.set_counter(counter)
                self.status.update(
                    activity="ready",
                    detail="",
                    info=event.info,
                    memory_bytes=event.info.memory_bytes,
                    tokens_per_s=None,
                )
                self.measure_memory()
            case Cancelled():
                info = self.backend.session.info
                detail = "" if info else f"no model loaded ({self.key('model')} loads one)"
                self.status.update(activity="ready" if info else "none", detail=detail)
            case _:
                assert_never(event)

    def _load_failed(self, error: LLMMagicError) -> None:
        info = self.backend.session.info
        alive = info is not None and self.backend.alive
        # The notice goes after some seconds. Why there is no model stays, with the key that tries again.
        key = self.key("model")
        detail = "" if alive else f"no model loaded ({key} tries again): {one_line(error.message)}"
        self.status.update(activity="ready" if alive else "none", info=info, detail=detail)
        if not alive:
            reason = ("There is no model.", "", one_line(str(error)), "", f"{key} tries again, or takes another one.")
            for pane in self.panes:
                pane.greet(reason)
        self.waiting = False
        self.show_waiting()
        self.complain(error)

    def _watch(self) -> None:
        """Notice a model that died while nobody talked to it."""
        if self.backend.is_open and self.running is None and not self.dead and not self.backend.alive:
            self.model_died(EngineError("The model's process has ended.", hint=""))

    def measure_memory(self) -> None:
        """Show what the model takes now, once that is known."""
        info = self.status.status.info
        # On a GPU only its own process can tell, and that is busy with the reply.
        if info is None or self.dead or (self.running is not None and info.device != "cpu"):
            return
        self.spawn(self._measure_memory, "memory", exclusive=True)

    async def _measure_memory(self) -> None:
        try:
            used = await asyncio.to_thread(self.backend.session.memory_bytes)
        except LLMMagicError:  # unloaded or dead by now: `_watch` says so
            return
        self.status.update(memory_bytes=used)

    def model_died(self, error: EngineError) -> None:
        """Mark the model as dead; everything said so far is kept."""
        self.dead = True
        key = self.key("model")
        self.status.update(activity="dead", detail=f"the model died — {key} starts it again")
        self.complain(EngineError(error.message, hint=f"What it had written is kept. {key} starts the model again."))

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
            self.backend.settings,
            model=choice.model_id or None,
            quantization=choice.quantization,
            adapter=choice.adapter,
            base_url=choice.base_url,
            engine="auto",
        )
        self.start_model()
