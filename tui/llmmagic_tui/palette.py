"""The command palette: every key's action, and every conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from textual.command import DiscoveryHit, Hit, Hits, Provider

from llmmagic.core.sanitize import one_line
from llmmagic_tui.bindings import SCREEN, TRANSCRIPT, Keymap, first_key

if TYPE_CHECKING:
    from textual.binding import Binding

    from llmmagic_tui.screens.chat.screen import ChatScreen

_SKIPPED = ("palette", "message_up", "message_down", "message_first", "message_last", "write")


class Actions(Provider):
    """What keys do, by its name."""

    def _actions(self) -> list[tuple[Binding, Callable[[], object]]]:
        bindings = [binding for binding in (*SCREEN, *TRANSCRIPT) if binding.id not in _SKIPPED]
        return [(binding, partial(self._run, binding.action)) for binding in bindings]

    async def _run(self, action: str) -> None:
        # The transcript hands its actions on to the screen; so does this.
        if action.startswith("do("):
            action = action[len("do('") : -len("')")]
        await self.screen.run_action(action)

    def _title(self, binding: Binding) -> str:
        keymap = Keymap(self.app.keys)  # type: ignore[attr-defined]
        key = first_key(keymap.of(binding))
        return f"{binding.description} ({self.app.get_key_display(binding.with_key(key))})"

    async def discover(self) -> Hits:
        """All of them, before anything is typed."""
        for binding, run in self._actions():
            yield DiscoveryHit(self._title(binding), run, help=binding.tooltip)

    async def search(self, query: str) -> Hits:
        """Those that match."""
        matcher = self.matcher(query)
        for binding, run in self._actions():
            title = self._title(binding)
            if (score := matcher.match(f"{title} {binding.tooltip}")) > 0:
                yield Hit(score, matcher.highlight(title), run, help=binding.tooltip)


class Conversations(Provider):
    """Conversations by title."""

    async def search(self, query: str) -> Hits:
        """Those that match."""
        screen: ChatScreen = self.screen  # type: ignore[assignment]
        store = screen.backend.store
        if store is None:
            return
        matcher = self.matcher(query)
        for each in await asyncio.to_thread(store.list, limit=500):
            title = one_line(each.title, 60)
            if title and (score := matcher.match(title)) > 0:
                run = partial(screen.open_conversation, each.id, screen.active)
                yield Hit(score, matcher.highlight(title), run, help="Open the conversation")
