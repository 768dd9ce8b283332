"""The chat screen: list at the left, one or two conversations, input, status."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical

from llmmagic_tui.bindings import SCREEN, TRANSCRIPT, Keymap, find, first_key
from llmmagic_tui.screens.chat.library import Library
from llmmagic_tui.widgets.chat_pane import ChatPane
from llmmagic_tui.widgets.composer import Composer
from llmmagic_tui.widgets.key_bar import KeyBar
from llmmagic_tui.widgets.transcript.message import HINTS

if TYPE_CHECKING:
    from llmmagic_tui.backend import Backend

_WIDE = 100  # columns from which on the list has a place of its own


class ChatScreen(Library):
    """The main screen."""

    BINDINGS: ClassVar[list[BindingType]] = [*SCREEN]

    def __init__(self, backend: Backend, *, conversation: str | None = None) -> None:
        """Lay out the screen; nothing is opened yet.

        Args:
            backend: Session and store, not open yet.
            conversation: What to show first: an id, ``last``, or a new one.
        """
        super().__init__(backend)
        self._wanted = conversation
        self._list_wanted: bool | None = None  # what the person chose; None goes by the width

    def compose(self) -> ComposeResult:
        """Everything that is on screen."""
        with Horizontal(id="main"):
            yield self.library
            with Vertical(id="chat"):
                with Horizontal(id="panes"):
                    yield from self.panes
                yield self.composer
                yield self.status
        yield KeyBar()

    def on_mount(self) -> None:
        """Draw first, open the rest afterwards."""
        self.panes[1].display = False
        self._mark_active()
        self._offer_actions()
        self.composer.focus()
        self.status.update(activity="loading", detail="starting")
        self.call_after_refresh(self._begin)

    def _begin(self) -> None:
        if not gc.isenabled():  # see `cli`
            gc.freeze()  # modules, classes and widgets stay as long as the app: later searches need not look at them
            gc.enable()
        self.spawn(self._open_backend, "start")

    async def _open_backend(self) -> None:
        await asyncio.to_thread(self.backend.open)
        await self.open_first(self._wanted)
        self.start_model()

    def _offer_actions(self) -> None:
        """What stands below a selected message: the actions, with the keys as the person has set them."""
        keymap = Keymap(self.backend.settings.keys)
        hints = []
        for hint in HINTS:
            binding = find(TRANSCRIPT, hint.key)
            key = self.app.get_key_display(binding.with_key(first_key(keymap.of(binding))))
            hints.append(hint._replace(key=key))
        for pane in self.panes:
            pane.transcript.hints = tuple(hints)

    # --- layout -----------------------------------------------------------------------------------------------------

    def on_resize(self, event: events.Resize) -> None:
        """On a narrow screen the list lies over the conversation, and only when asked for."""
        wide = event.size.width >= _WIDE
        self.library.set_class(not wide, "-over")
        self.library.display = (
            wide if self._list_wanted is None else self._list_wanted and (wide or self._has_list_focus)
        )

    @property
    def _has_list_focus(self) -> bool:
        return self.library in self.focused.ancestors if self.focused is not None else False

    def action_conversations(self) -> None:
        """Show the list and go to its search; again, and it is gone."""
        if self.library.display and (self._has_list_focus or not self.library.has_class("-over")):
            if self._has_list_focus:
                self._list_wanted = self.library.display = False
                self.composer.focus()
                return
        self._list_wanted = self.library.display = True
        self.refresh_library()
        self.library.focus_search()

    def action_split(self) -> None:
        """Two conversations side by side, or one again."""
        other = self.panes[1]
        if not self.backend.is_open:
            return
        if other.display and self._is_writing(other):
            self.say(f"A reply is being written there: stop it first ({self.key('stop')}).", warning=True)
            return
        other.display = not other.display
        if other.display:
            if other.conversation is None:
                self.new_in(other)
            self.choose(other)
        else:
            self.to_both = False
            self.choose(self.panes[0])
        self._mark_active()
        self.refresh_library()

    def action_other_pane(self) -> None:
        """Write to the other half."""
        if self.split:
            self.choose(next(pane for pane in self.panes if pane is not self.active))

    def action_send_to_both(self) -> None:
        """Send to both halves, or to one again."""
        if not self.split:
            self.action_split()
        self.to_both = not self.to_both
        self._mark_active()

    def choose(self, pane: ChatPane) -> None:
        """Make a pane the one that is written to."""
        self.active = pane
        self._mark_active()

    def _mark_active(self) -> None:
        for pane in self.panes:
            pane.set_class(self.split and pane in self.targets, "-active")
        self.show_waiting()
        self.refresh_windows()

    @on(ChatPane.Chosen)
    def _pane_chosen(self, event: ChatPane.Chosen) -> None:
        event.stop()
        if event.pane is not self.active:
            self.choose(event.pane)

    @on(Composer.Scrolled)
    def _scrolled(self, event: Composer.Scrolled) -> None:
        event.stop()
        transcript = self.active.transcript
        transcript.scroll_relative(y=event.pages * max(transcript.size.height - 1, 1), animate=False)

    # --- other screens ----------------------------------------------------------------------------------------------

    def action_help(self) -> None:
        """All keys."""
        from llmmagic_tui.screens.help import HelpScreen

        self.app.push_screen(HelpScreen(Keymap(self.backend.settings.keys)))

    def action_context(self) -> None:
        """The context window, message by message."""
        from llmmagic_tui.screens.context import ContextScreen

        talk, report = self.active.conversation, self.active.report
        if talk is None or report is None:
            self.say("The window can be counted once a model is loaded.")
            return

        def count(message_ids: Sequence[str]) -> dict[str, int]:
            return self.backend.session.message_tokens(message_ids, talk.id)

        self.app.push_screen(ContextScreen(report, talk.path(), talk.system, count))

    def action_settings(self) -> None:
        """Sampling, reply length, overflow."""
        from llmmagic_tui.screens.settings import SettingsScreen

        self.app.push_screen(SettingsScreen(self.backend.settings), self._settings_changed)

    def _settings_changed(self, settings: object) -> None:
        from llmmagic_tui.settings import Settings

        if isinstance(settings, Settings):
            self.backend.change(settings)
            self.refresh_windows()

    def action_theme(self) -> None:
        """Switch between light and dark."""
        self.app.action_toggle_light()  # type: ignore[attr-defined]
