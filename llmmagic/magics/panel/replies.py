"""A reply in the panel: read in a thread of its own, and sent on in batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import assert_never

from llmmagic.core.errors import LLMMagicError
from llmmagic.core.events import ChatEvent, ChatFinished, ChatStarted, Notice, PrefillProgress, TextDelta
from llmmagic.magics.figures import rate_text, seconds_text
from llmmagic.magics.panel.growing import GrowingMarkdown
from llmmagic.magics.panel.updates import Activity, Line, Stream

if TYPE_CHECKING:
    from llmmagic.core.operation import Operation
    from llmmagic.magics.panel.hub import PanelHub
    from llmmagic.magics.panel.panel import ChatPanel

_FRAME_S = 0.05
"""How often text is sent on: 20 times a second reads as fluent, and one message carries many tokens."""
_BUSY_SHARE = 0.5  # of the time may go into rendering; the rest is the model's


class Reply:
    """A reply that is being written, for all panels that show its conversation.

    Attributes:
        talk_id: Its conversation.
        id: Of the reply; empty until it begins.
        activity: What is going on.
        detail: The same in a sentence.
    """

    def __init__(
        self, panel: ChatPanel, hub: PanelHub, operation: Operation[ChatEvent], answer: Callable[[str], None]
    ) -> None:
        """Begin to read.

        Args:
            panel: Who has asked for it.
            hub: Of the panel.
            operation: Just started.
            answer: Called once: with an empty text when the message is part of the conversation, else with the error.
        """
        self.talk_id = panel.talk.id
        self.id = ""
        self.activity: Activity = "reading"
        self.detail = "Reading the prompt"
        self._panel, self._hub, self._operation, self._answer = panel, hub, operation, answer
        self._growing = GrowingMarkdown()
        self._settled = ""
        self._text: list[str] = []
        self._due_s = 0.0
        self._thread = threading.Thread(target=self._read, name="llmmagic-panel-reply", daemon=True)
        hub.reply = self
        self._thread.start()

    def stop(self) -> None:
        """Ask for its end; what there is of it stays."""
        self.detail = "Stopping"
        self._operation.cancel()
        self._tell()

    @property
    def so_far(self) -> Stream:
        """All of it at once, for a browser that has just drawn the panel."""
        return Stream(self.id, self._settled, 0, self._growing.tail)

    def wait(self, timeout_s: float) -> None:
        """Wait until everything has been sent on."""
        self._thread.join(timeout_s)

    def _read(self) -> None:
        error = ""
        try:
            for event in self._operation.ticking(_FRAME_S):
                if event is not None:
                    self._on(event)
                if self._text and time.monotonic() >= self._due_s:
                    self._send()
            self._send()
        except LLMMagicError as err:
            error = str(err)
        finally:
            self._end(error)

    def _on(self, event: ChatEvent) -> None:
        match event:
            case ChatStarted():
                self._begin(event)
            case PrefillProgress():
                share = 100 * event.done_tokens / max(event.total_tokens, 1)
                self.detail = f"Reading the prompt: {share:.0f}%"
                self._tell()
            case TextDelta():
                if self.activity == "reading":
                    self.activity, self.detail = "writing", "Writing"
                    self._tell()
                self._text.append(event.text)
            case Notice():
                self._panel.send(Line(event.text, event.level))
            case ChatFinished():
                self._send()
                self._finish(event)
            case _:
                assert_never(event)

    def _begin(self, event: ChatStarted) -> None:
        self.id = event.reply_id
        before = self._panel.talk[event.reply_id].content  # of a reply that is continued
        for panel in self._hub.showing(self.talk_id):
            panel.refresh(count=False)
            panel.show_window(event.window, sent=True)
        self._answer("")
        if before:
            self._text.append(before)
            self._send()

    def _send(self) -> None:
        text = "".join(self._text)
        self._text.clear()
        if not text:
            return
        began = time.monotonic()
        growth = self._growing.append(text)
        if growth.settled:
            self._settled += growth.settled
        for panel in self._hub.showing(self.talk_id):
            panel.send(Stream(self.id, growth.settled, growth.cut, growth.add))
        spent = time.monotonic() - began
        self._due_s = time.monotonic() + max(_FRAME_S, spent * (1 - _BUSY_SHARE) / _BUSY_SHARE)

    def _finish(self, event: ChatFinished) -> None:
        stats = event.stats
        figures = [f"{rate_text(stats.tokens_per_s)} tokens/s"] if stats.tokens_per_s > 0 else []
        if stats.completion_tokens:
            figures.append(f"first token after {seconds_text(stats.time_to_first_token_s)}")
        self._hub.speed = " · ".join(figures)

    def _tell(self) -> None:
        for panel in self._hub.showing(self.talk_id):
            panel.send_status()

    def _end(self, error: str) -> None:
        if self._hub.reply is self:  # the session is free a moment before: there may be the next one already
            self._hub.reply = None
        if not self.id:
            self._answer(error or "The reply was stopped before it began.")
        elif error:
            self._panel.send(Line(error, "error"))
        for panel in self._hub.panels:
            panel.refresh()
        for panel in self._hub.showing(self.talk_id):
            panel.keep()
