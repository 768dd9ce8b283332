"""What the parts of the chat screen share: its widgets, the session, and the exact window of what is on screen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.screen import Screen

from llmmagic.core.errors import ContextOverflowError, LLMMagicError, ModelNotLoadedError
from llmmagic.core.sanitize import one_line
from llmmagic_tui.bindings import Keymap
from llmmagic_tui.widgets.chat_pane import ChatPane, welcome
from llmmagic_tui.widgets.composer import Composer
from llmmagic_tui.widgets.conversation_list import ConversationList
from llmmagic_tui.widgets.status_line import StatusLine

if TYPE_CHECKING:
    from textual.worker import Worker

    from llmmagic.core.operation import Operation
    from llmmagic_tui.backend import Backend

_ERROR_S = 8.0
_AT_ONCE = 200  # messages: some hundredths of a second


class ChatBase(Screen[None]):
    """State of the screen. What can be done with it is in the classes that inherit from this one.

    Attributes:
        backend: Session and store.
        panes: The two halves; the second one is hidden unless the screen is split.
        active: The half that is written to.
        to_both: Whether a message goes to both halves.
        running: The operation that runs, if any.
    """

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        greeting = welcome(self.key("send"), self.key("help"))
        self.panes = (ChatPane(greeting, id="left"), ChatPane(greeting, id="right"))
        self.active = self.panes[0]
        self.composer = Composer(
            f"Write a message. {self.key('send')} sends, {self.key('newline')} begins a new line.", id="composer"
        )
        self.library = ConversationList(id="library")
        self.status = StatusLine(id="status")
        self.to_both = False
        self.running: Operation[Any] | None = None
        self._counting: dict[str, bool] = {}  # pane id -> whether to count once more
        self._counting_old: set[str] = set()  # conversations whose dropped messages are being counted
        self._draft_changed = False

    # --- what is on screen ------------------------------------------------------------------------------------------

    @property
    def split(self) -> bool:
        """Whether two conversations are on screen."""
        return self.panes[1].display

    @property
    def shown(self) -> tuple[ChatPane, ...]:
        """The panes that are on screen."""
        return self.panes if self.split else self.panes[:1]

    @property
    def targets(self) -> tuple[ChatPane, ...]:
        """Where a message goes."""
        return self.shown if self.to_both else (self.active,)

    @property
    def writing(self) -> bool:
        """Whether a reply is being written, in any pane."""
        return any(pane.transcript.is_live for pane in self.panes)

    def key(self, id: str) -> str:
        """What a sentence calls the key of an action, as the person has set it."""
        return Keymap(self.backend.settings.keys).name(id)

    def complain(self, error: LLMMagicError) -> None:
        """Show an error: what is wrong, and what to do."""
        self.notify(one_line(str(error)), severity="error", timeout=_ERROR_S, markup=False)

    def say(self, text: str, *, warning: bool = False) -> None:
        """Show a notice."""
        self.notify(one_line(text), severity="warning" if warning else "information", markup=False)

    async def try_it(self, work: Callable[[], Any]) -> bool:
        """Run something short that may fail, outside the event loop.

        Returns:
            Whether it worked; if not, the reason is on screen.
        """
        try:
            await asyncio.to_thread(work)
        except LLMMagicError as err:
            self.complain(err)
            return False
        return True

    def spawn(self, work: Callable[[], Coroutine[None, None, None]], group: str, *, exclusive: bool = False) -> None:
        """Start a task that ends with the screen.

        Args:
            work: Makes the coroutine; not called if the task is replaced before it begins.
            group: What it is replaced by.
            exclusive: Whether it replaces what runs in its group.
        """
        _: Worker[None] = self.run_worker(work, group=group, exclusive=exclusive)

    def refresh_library(self) -> None:
        """Read the list of conversations anew; see `Library`."""
        raise NotImplementedError

    def action_split(self) -> None:
        """Two conversations side by side, or one again; see `ChatScreen`."""
        raise NotImplementedError

    def leave_list(self) -> None:
        """Where the list lies over the conversation, put it away."""
        if self.library.has_class("-over"):
            self.library.display = False

    # --- the context window -----------------------------------------------------------------------------------------

    @property
    def counting(self) -> bool:
        """Whether the figures on screen are about to change."""
        return self._draft_changed or bool(self._counting)

    def refresh_windows(self) -> None:
        """Count anew what the model sees, in every pane, with the draft as it is."""
        for pane in self.shown:
            key = str(pane.id)
            if key in self._counting:  # a count is under way: once more when it is done
                self._counting[key] = True
            else:
                self._counting[key] = False
                self.spawn(partial(self._count, pane), f"count-{key}")

    async def _count(self, pane: ChatPane) -> None:
        key = str(pane.id)
        try:
            while True:
                self._counting[key] = False
                await self._count_once(pane)
                if not self._counting[key]:
                    return
        finally:
            del self._counting[key]

    async def _count_once(self, pane: ChatPane) -> None:
        conversation_id = pane.conversation_id
        if not self.backend.is_open or conversation_id is None:
            return
        session, generation = self.backend.session, self.backend.generation
        draft = self.composer.text if pane in self.targets else ""

        def count() -> Any:
            return session.window(conversation_id, draft=draft, generation=generation)

        try:
            report = await asyncio.to_thread(count)
        except ModelNotLoadedError:
            pane.show_window(None)
        except ContextOverflowError as err:
            pane.show_window(None, f"Does not fit: {err.message}")
        except LLMMagicError as err:
            pane.show_window(None, one_line(err.message))
        else:
            if pane.conversation_id == conversation_id:
                pane.show_window(report)
                if report.newly_dropped_tokens is None and conversation_id not in self._counting_old:
                    ids = report.newly_dropped_message_ids
                    self.spawn(partial(self._count_old, conversation_id, ids), "count-old")

    async def _count_old(self, conversation_id: str, message_ids: Sequence[str]) -> None:
        """Count what a long conversation drops, which takes a while the first time, then show the window again."""
        session = self.backend.session
        self._counting_old.add(conversation_id)
        try:
            for begin in range(0, len(message_ids), _AT_ONCE):
                part = message_ids[begin : begin + _AT_ONCE]
                await asyncio.to_thread(session.message_tokens, part, conversation_id)
                if all(pane.conversation_id != conversation_id for pane in self.shown):
                    return
        except LLMMagicError:  # the model is gone meanwhile: another one counts anew
            return
        finally:
            self._counting_old.discard(conversation_id)
        self.refresh_windows()
