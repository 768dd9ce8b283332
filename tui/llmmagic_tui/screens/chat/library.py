"""The list of conversations: search, open, begin, rename, delete and bring back."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from textual import on

from llmmagic.core.errors import LLMMagicError, StoreError
from llmmagic.core.sanitize import one_line
from llmmagic_tui.screens.chat.marks import MessageActions
from llmmagic_tui.widgets.conversation_list import ConversationList, Entry

if TYPE_CHECKING:
    from llmmagic_tui.widgets.chat_pane import ChatPane

_MOST = 500  # conversations in the list; older ones are found by searching


class Library(MessageActions):
    """Everything about conversations as a whole."""

    def __init__(self, *args: object, **keywords: object) -> None:
        super().__init__(*args, **keywords)  # type: ignore[arg-type]
        self._deleted: list[str] = []

    # --- the list ---------------------------------------------------------------------------------------------------

    def refresh_library(self) -> None:
        """Read the list anew."""
        self.spawn(self._list, "list", exclusive=True)

    async def _list(self) -> None:
        store, words = self.backend.store, self.library.words
        if store is None:
            return
        try:
            entries = await asyncio.to_thread(self._search if words else self._newest, words)
        except LLMMagicError as err:
            self.complain(err)
            return
        opened = [pane.conversation_id for pane in self.shown]
        self.library.show(entries, [each for each in opened if each is not None])

    def _newest(self, _: str) -> list[Entry]:
        store = self.backend.store
        assert store is not None
        return [Entry(each.id, each.title, each.updated) for each in store.list(limit=_MOST)]

    def _search(self, words: str) -> list[Entry]:
        store = self.backend.store
        assert store is not None
        found: dict[str, Entry] = {}
        for hit in store.search(words, limit=_MOST):
            talk = hit.conversation
            found.setdefault(talk.id, Entry(talk.id, talk.title, talk.updated, hit.excerpt))
        return list(found.values())

    @on(ConversationList.Searched)
    def _searched(self, event: ConversationList.Searched) -> None:
        event.stop()
        self.refresh_library()

    # --- opening ----------------------------------------------------------------------------------------------------

    @on(ConversationList.Opened)
    def _opened(self, event: ConversationList.Opened) -> None:
        event.stop()
        self.open_conversation(event.conversation_id, self.active)
        self.leave_list()
        self.composer.focus()

    def open_conversation(self, conversation_id: str, pane: ChatPane) -> None:
        """Show a stored conversation."""
        if self._is_writing(pane):
            self.say(f"A reply is being written here: stop it first ({self.key('stop')}).", warning=True)
            return
        self.spawn(partial(self._open, conversation_id, pane), f"open-{pane.id}", exclusive=True)

    def _is_writing(self, pane: ChatPane) -> bool:
        return self.running is not None and pane.transcript.is_live

    async def _open(self, conversation_id: str, pane: ChatPane) -> None:
        try:
            conversation = await asyncio.to_thread(self.backend.session.conversation, conversation_id)
        except LLMMagicError as err:
            self.complain(err)
            return
        pane.open(conversation)
        self.composer.set_history([m.content for m in pane.transcript.messages if m.role == "user"])
        self.refresh_windows()
        self.refresh_library()

    def new_in(self, pane: ChatPane) -> None:
        """Begin an empty conversation. It is stored with its first message."""
        pane.open(self.backend.session.new_conversation(system=self.backend.settings.system))
        self.refresh_windows()
        self.refresh_library()

    def action_new(self) -> None:
        """A new conversation in the active half."""
        if not self.backend.is_open:
            return
        if self._is_writing(self.active):
            self.say(f"A reply is being written here: stop it first ({self.key('stop')}).", warning=True)
            return
        self.new_in(self.active)
        self.composer.focus()

    # --- changing ---------------------------------------------------------------------------------------------------

    @on(ConversationList.Asked)
    def _asked(self, event: ConversationList.Asked) -> None:
        event.stop()
        match event.what:
            case "rename":
                self._rename(event.conversation_id)
            case "delete":
                self._delete(event.conversation_id)
            case "undo":
                self._undo()
            case _:
                if not self.split:
                    self.action_split()
                self.open_conversation(event.conversation_id, next(p for p in self.shown if p is not self.active))

    def _rename(self, conversation_id: str) -> None:
        from llmmagic_tui.screens.dialogs import LineScreen

        def rename(title: str) -> None:
            self.backend.session.conversation(conversation_id).title = title

        def named(title: str | None) -> None:
            if title is None:
                return

            async def run() -> None:
                if await self.try_it(lambda: rename(title)):
                    self.refresh_library()
                    for pane in self.shown:
                        pane.refresh_title()

            self.spawn(run, "rename")

        title = next((e.title for e in self.library.entries if e.id == conversation_id), "")
        self.app.push_screen(LineScreen("Rename conversation", one_line(title)), named)

    def _delete(self, conversation_id: str) -> None:
        store = self.backend.store
        if store is None:
            return
        shown = [pane for pane in self.shown if pane.conversation_id == conversation_id]
        if any(self._is_writing(pane) for pane in shown):
            self.say(f"A reply is being written there: stop it first ({self.key('stop')}).", warning=True)
            return

        async def run() -> None:
            if await self.try_it(lambda: store.delete(conversation_id)):
                self._deleted.append(conversation_id)
                for pane in shown:
                    self.new_in(pane)
                self.refresh_library()
                self.say(f"Deleted. {self.key('undo_delete')} in the list brings it back.")

        self.spawn(run, "delete")

    def _undo(self) -> None:
        store = self.backend.store
        if store is None or not self._deleted:
            self.say("Nothing was deleted since the start.")
            return
        conversation_id = self._deleted.pop()

        async def run() -> None:
            if await self.try_it(lambda: store.restore(conversation_id)):
                self.refresh_library()

        self.spawn(run, "undo")

    # --- the start --------------------------------------------------------------------------------------------------

    async def open_first(self, wanted: str | None) -> None:
        """Show what the command line asks for, or a new conversation.

        Args:
            wanted: Id of a conversation, or ``last``.
        """
        pane = self.panes[0]
        if (error := self.backend.store_error) is not None:
            self.complain(StoreError(error.message, hint="Conversations are not kept in this session."))
        if wanted == "last":
            newest = await asyncio.to_thread(self._newest, "") if self.backend.store is not None else []
            wanted = newest[0].id if newest else None
        if wanted is not None:
            await self._open(wanted, pane)
        if pane.conversation is None:
            self.new_in(pane)
