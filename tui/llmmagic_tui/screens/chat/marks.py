"""What can be done with a message: copy, edit, pin, rate, better answer, branches, thinking."""

from __future__ import annotations

import webbrowser
from typing import TYPE_CHECKING

from textual import on

from llmmagic.core.sanitize import strip_controls
from llmmagic_tui.screens.chat.replies import Replies
from llmmagic_tui.widgets.transcript import Transcript

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmmagic.core.chat.messages import Message
    from llmmagic.core.chat.tree import Conversation

_WEB = ("http://", "https://", "mailto:")


class MessageActions(Replies):
    """Actions on the selected message; without a selection, on the last one they apply to."""

    def _target(self, *roles: str) -> tuple[Conversation, Message] | None:
        pane = self.active
        conversation, selected = pane.conversation, pane.transcript.selected
        if conversation is None:
            return None
        candidates = [selected] if selected is not None else list(reversed(pane.transcript.messages))
        for message in candidates:
            if not roles or message.role in roles:
                return conversation, message
        wanted = (
            {"assistant": "replies", "user": "your own messages"}.get(roles[0], "messages") if roles else "messages"
        )
        self.say(f"That works on {wanted}." if candidates else "There are no messages yet.")
        return None

    def _change(self, work: Callable[[], object]) -> None:
        """Change the conversation (which writes to the database), then show it."""
        pane = self.active

        async def run() -> None:
            if await self.try_it(work):
                pane.refresh_messages()
                self.refresh_windows()

        self.spawn(run, "change")

    @on(Transcript.Do)
    async def _do(self, event: Transcript.Do) -> None:
        event.stop()
        await self.run_action(event.action)

    # --- copying and links ------------------------------------------------------------------------------------------

    def action_copy(self) -> None:
        """Copy the text of a message."""
        if (target := self._target()) is not None:
            self._copy(target[1].content, "Copied the message.")

    def _copy(self, text: str, done: str) -> None:
        # The text goes to the terminal inside an escape sequence: it must not bring its own.
        self.app.copy_to_clipboard(strip_controls(text))
        self.say(done)

    @on(Transcript.CodeCopied)
    def _code_copied(self, event: Transcript.CodeCopied) -> None:
        event.stop()
        self._copy(event.code, "Copied the code.")

    @on(Transcript.LinkClicked)
    def _link_clicked(self, event: Transcript.LinkClicked) -> None:
        event.stop()
        address = strip_controls(event.address)
        if not address.lower().startswith(_WEB):
            self.say(f"Not followed: only web and mail addresses are, this is {address[:60]}", warning=True)
            return
        from llmmagic_tui.screens.dialogs import ConfirmScreen

        def answered(yes: bool | None) -> None:
            if yes:
                webbrowser.open(address)

        self.app.push_screen(ConfirmScreen("Open this address in the browser?", address), answered)

    # --- changing ---------------------------------------------------------------------------------------------------

    def action_edit(self) -> None:
        """Say it differently: a new branch, with a reply of its own."""
        if (target := self._target("user")) is None:
            return
        pane, (_, message) = self.active, target
        from llmmagic_tui.screens.editor import EditorScreen

        def edited(text: str | None) -> None:
            if text is not None and text.strip() and text != strip_controls(message.content):
                name = pane.conversation_id or ""
                session, generation = self.backend.session, self.backend.generation
                self.begin_reply(pane, lambda: session.edit(message.id, text, conversation=name, generation=generation))

        keys = f"{self.key('branch_previous')} and {self.key('branch_next')}"
        note = f"The old message stays, with all that follows it: {keys} go between the branches."
        self.app.push_screen(EditorScreen("Edit message", message.content, note=note, save="Send"), edited)

    def action_better(self) -> None:
        """Write the reply one would have wanted."""
        if (target := self._target("assistant")) is None:
            return
        conversation, message = target
        from llmmagic_tui.screens.editor import EditorScreen

        def written(text: str | None) -> None:
            if text is not None:
                self._change(lambda: conversation.better(message.id, text if text.strip() else None))

        note = "Kept beside the reply, for training on later. Empty takes it back."
        start = message.better if message.better is not None else message.content
        self.app.push_screen(EditorScreen("Better answer", start, note=note), written)

    def action_system(self) -> None:
        """Write the system prompt of this conversation."""
        conversation = self.active.conversation
        if conversation is None:
            return
        from llmmagic_tui.screens.editor import EditorScreen

        def written(text: str | None) -> None:
            if text is not None:
                self._change(lambda: setattr(conversation, "system", text.strip() or None))

        note = "Empty leaves it to the model's own template."
        self.app.push_screen(EditorScreen("System prompt", conversation.system or "", note=note), written)

    def action_pin(self) -> None:
        """Keep a message in the window, or let it go again."""
        if (target := self._target()) is not None:
            conversation, message = target
            change = conversation.unpin if message.pinned else conversation.pin
            self._change(lambda: change(message.id))

    def action_rate(self, rating: int) -> None:
        """Rate a reply; the same rating again takes it back."""
        if (target := self._target("assistant")) is not None:
            conversation, message = target
            self._change(lambda: conversation.rate(message.id, None if message.rating == rating else rating))

    def action_branch(self, step: int) -> None:
        """Go to a neighbouring branch."""
        if self.running is not None:
            self.say(f"A reply is being written: stop it first ({self.key('stop')}).", warning=True)
            return
        pane = self.active
        conversation = pane.conversation
        if conversation is None:
            return
        message = pane.transcript.selected
        if message is None:  # the last place where there is a choice
            message = next((m for m in reversed(pane.transcript.messages) if conversation.branch(m.id)[1] > 1), None)
        if message is None or (family := conversation.siblings(message.id)) == [message]:
            self.say("There are no branches here: editing or regenerating makes them.")
            return
        index = [each.id for each in family].index(message.id)
        other = family[(index + step) % len(family)]
        row = pane.transcript.messages.index(message)

        async def run() -> None:
            if await self.try_it(lambda: conversation.select(other.id)):
                pane.refresh_messages()
                if pane.transcript.has_focus:
                    pane.transcript.cursor = row
                self.refresh_windows()

        self.spawn(run, "change")

    def action_fold(self) -> None:
        """Fold or unfold the thinking part."""
        if (target := self._target("assistant")) is not None:
            self.active.transcript.toggle_thinking(target[1].id)

    def action_continue(self) -> None:
        """Go on with a reply that was stopped or cut off."""
        pane = self.active
        messages = pane.transcript.messages
        message = pane.transcript.selected or (messages[-1] if messages else None)
        if message is None or message.role != "assistant":
            self.say("Only a reply can be continued.")
            return
        name = pane.conversation_id or ""
        session, generation = self.backend.session, self.backend.generation
        self.begin_reply(pane, lambda: session.continue_reply(message.id, conversation=name, generation=generation))

    def action_write(self) -> None:
        """Back to the input."""
        self.composer.focus()
