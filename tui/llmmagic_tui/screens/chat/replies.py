"""Sending, and what comes back: the part of the chat screen that talks to the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from textual import on
from textual.widgets import TextArea
from typing_extensions import assert_never

from llmmagic.core.errors import EngineError, LLMMagicError, ModelNotLoadedError, SessionBusyError
from llmmagic_tui.operations import batches
from llmmagic_tui.screens.chat.models import ModelControl
from llmmagic_tui.widgets.composer import Composer

if TYPE_CHECKING:
    from llmmagic.core.events import ChatEvent
    from llmmagic.core.operation import Operation
    from llmmagic_tui.widgets.chat_pane import ChatPane

Start: TypeAlias = "Callable[[], Operation[ChatEvent]]"
_COUNT_DELAY_S = 0.12


class Replies(ModelControl):
    """Send, stop, regenerate, continue."""

    def on_mount(self) -> None:
        """Count the draft while it is written, but not at every key."""
        self._counter = self.set_interval(_COUNT_DELAY_S, self._count_draft, pause=True)

    # --- writing ----------------------------------------------------------------------------------------------------

    @on(TextArea.Changed, "#composer")
    def _count_soon(self, event: TextArea.Changed) -> None:
        event.stop()
        self._draft_changed = True
        self._counter.resume()

    def _count_draft(self) -> None:
        self._counter.pause()
        self._draft_changed = False
        self.refresh_windows()

    @on(Composer.Sent)
    def _sent(self, event: Composer.Sent) -> None:
        event.stop()
        if event.text.strip():
            self.waiting = True
            self.send_waiting()

    def send_waiting(self) -> None:
        """Send what is written, as soon as that is possible."""
        if not self.waiting:
            return
        if self.status.status.activity == "none":
            self.waiting = False
            hint = f"{self.key('model')} loads one; what you wrote stays."
            self.complain(ModelNotLoadedError("No model is loaded.", hint=hint))
            return
        if self.running is not None or not self.backend.is_ready or self.dead:
            if self.dead and self.running is None:
                self.start_model()
            self.show_waiting()
            return
        self.waiting = False
        self.show_waiting()
        text, targets = self.composer.text, self.targets
        if text.strip():
            self.composer.text = ""
            self.composer.remember(text)
            self.spawn(partial(self._deliver, text, targets), "reply")

    async def _deliver(self, text: str, targets: tuple[ChatPane, ...]) -> None:
        for pane in targets:
            conversation_id = pane.conversation_id
            if conversation_id is None:
                continue

            def start(name: str = conversation_id) -> Operation[ChatEvent]:
                return self.backend.session.chat(text, conversation=name, generation=self.backend.generation)

            if not await self.run_reply(pane, start):
                if not self._said(pane, text):
                    self.give_back(text)
                break
        self.send_waiting()

    def _said(self, pane: ChatPane, text: str) -> bool:
        """Whether the message is part of the conversation, whatever became of the reply."""
        return any(m.role == "user" and m.content == text for m in pane.transcript.messages[-2:])

    def give_back(self, text: str) -> None:
        """What could not be sent goes back into the input, before what has been written since."""
        later = self.composer.text
        self.composer.text = f"{text}\n{later}" if later.strip() else text
        self.composer.move_cursor(self.composer.document.end)

    # --- a reply ----------------------------------------------------------------------------------------------------

    async def run_reply(self, pane: ChatPane, start: Start) -> bool:
        """Run one reply and show it.

        Args:
            pane: Where.
            start: Begins it.

        Returns:
            Whether it came to an end; a stopped one did too.
        """
        began = time.monotonic()
        try:
            self.running = operation = start()
        except SessionBusyError as err:
            self.complain(err)
            return False
        except LLMMagicError as err:
            self.failed(pane, err)
            return False
        self.refresh_bindings()
        try:
            async for batch in batches(operation):
                self._show_batch(pane, batch, began)
        except LLMMagicError as err:
            self.failed(pane, err)
            return False
        finally:
            self.running = None
            pane.refresh_messages()
            pane.transcript.end_reply()
            self.refresh_bindings()
            self.refresh_windows()
            self.refresh_library()
            self.measure_memory()
        return True

    def _show_batch(self, pane: ChatPane, batch: list[ChatEvent], began: float) -> None:
        # Imported here, so that the first frame does not wait for it: its many dataclasses are made one by one.
        from llmmagic.core.events import ChatFinished, ChatStarted, Notice, PrefillProgress, TextDelta

        text: list[str] = []
        for event in batch:
            match event:
                case ChatStarted():
                    pane.refresh_messages()
                    pane.transcript.resume_reply(event.reply_id)
                    pane.transcript.follow()
                    pane.show_window(event.window, sent=True)
                    self.refresh_library()  # a new conversation is stored with its first message: now
                    self.status.update(activity="reading", detail="reading")
                    self._tokens, self._first = 0, 0.0
                case PrefillProgress():
                    share = 100 * event.done_tokens / max(event.total_tokens, 1)
                    self.status.update(detail=f"reading {share:.0f}%")
                case TextDelta():
                    text.append(event.text)
                    self._tokens += len(event.token_ids)
                case Notice(topic="server-retry"):  # one after the other, in one place
                    self.status.update(detail=event.text)
                case Notice():
                    self.say(event.text, warning=event.level == "warning")
                case ChatFinished():
                    self._show_text(pane, text, began)
                    pane.show_window(event.window, sent=True)
                    self.status.finished(event.stats)
                case _:
                    assert_never(event)
        self._show_text(pane, text, began)

    def _show_text(self, pane: ChatPane, text: list[str], began: float) -> None:
        if not text:
            return
        pane.transcript.stream("".join(text))
        text.clear()
        now = time.monotonic()
        if not self._first:
            self._first, self._first_tokens = now, self._tokens
            self.status.update(activity="writing", detail="writing", time_to_first_token_s=now - began)
        elif now - self._first > 0.5:
            self.status.update(tokens_per_s=(self._tokens - self._first_tokens) / (now - self._first))

    def failed(self, pane: ChatPane, error: LLMMagicError) -> None:
        """Say what went wrong; a model that died is marked as such."""
        if isinstance(error, EngineError) and not self.backend.alive:
            self.model_died(error)
            return
        self.status.update(activity="ready" if self.backend.session.info else "none", detail="")
        self.complain(error)

    # --- actions ----------------------------------------------------------------------------------------------------

    def action_stop(self) -> None:
        """Stop a reply or take back what waits; with nothing to stop, change between input and transcript."""
        if self.running is not None and self.writing:
            self.running.cancel()
        elif self.waiting:
            self.waiting = False
            self.show_waiting()
        elif self.composer.has_focus and self.active.transcript.messages:
            self.active.transcript.focus()
        else:
            self.leave_list()
            self.composer.focus()

    def action_regenerate(self) -> None:
        """Another reply, beside the last one or the selected one."""
        pane = self.active
        selected = pane.transcript.selected
        messages = pane.transcript.messages
        if not messages:
            self.say("There is nothing to reply to yet.")
            return
        message = selected or messages[-1]
        name = pane.conversation_id or ""
        generation = self.backend.generation
        if generation.seed is not None and pane.conversation is not None:
            # The same seed would write the same reply again; this one is another each time, and repeatable as well.
            generation = replace(generation, seed=(generation.seed + len(pane.conversation)) % 2**63)
        self.begin_reply(
            pane,
            lambda: self.backend.session.regenerate(message.id, conversation=name, generation=generation),
        )

    def begin_reply(self, pane: ChatPane, start: Start) -> None:
        """Start a reply that is not an answer to what is written in the input."""
        if self.running is not None:
            self.say(f"A reply is being written: stop it first ({self.key('stop')}).", warning=True)
        elif not self.backend.is_ready or self.dead:
            died = f"The model has died: {self.key('model')} starts it again."
            self.say(died if self.dead else "The model is not ready yet.")
        else:

            async def run() -> None:
                await self.run_reply(pane, start)
                self.send_waiting()

            self.spawn(run, "reply")
