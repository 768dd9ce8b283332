"""The Textual app: themes, keys, and the one screen that everything happens on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import App
from textual.binding import BindingType

from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic_tui.backend import Backend
from llmmagic_tui.bindings import Keymap
from llmmagic_tui.screens.chat import ChatScreen
from llmmagic_tui.themes import DARK, LIGHT

if TYPE_CHECKING:
    from textual.command import Provider

    from llmmagic_tui.settings import Settings


def _actions() -> type[Provider]:
    from llmmagic_tui.palette import Actions

    return Actions


def _conversations() -> type[Provider]:
    from llmmagic_tui.palette import Conversations

    return Conversations


class ChatApp(App[None]):
    """llmchat."""

    TITLE = "llmchat"
    # The default screen is not loaded the way others are: Textual reads its style sheet only from here.
    CSS_PATH = "screens/chat/chat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = []
    # Textual calls functions here when the palette is first opened: nothing of it is imported before.
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {
        *App.COMMANDS,
        _actions,
        _conversations,
    }

    def __init__(self, settings: Settings, *, conversation: str | None = None, worker: bool = True) -> None:
        """Prepare the app; nothing is opened before the first frame.

        Args:
            settings: What the person has set.
            conversation: What to show first: an id, ``last``, or a new one.
            worker: Keep the model in a process of its own.
        """
        super().__init__()
        self.backend = Backend(settings, worker=worker)
        self._conversation = conversation
        # Scrolling that takes its time is none over ssh, and the transcript settles where it lands.
        self.animation_level = "none"
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        keymap = Keymap(settings.keys)
        self._problems = [*settings.warnings, *keymap.warnings]
        if settings.theme in self.available_themes:
            self.theme = settings.theme
        else:
            self.theme = DARK.name
            self._problems.append(f"There is no theme {settings.theme!r}.")
        self.set_keymap(keymap.keys)

    @property
    def keys(self) -> Mapping[str, str]:
        """Keys as the person has set them."""
        return self.backend.settings.keys

    def get_default_screen(self) -> ChatScreen:
        """The chat."""
        return ChatScreen(self.backend, conversation=self._conversation)

    async def on_event(self, event: events.Event) -> None:
        """Clean what is pasted, wherever it goes: its escape sequences would be sent to the terminal with the text."""
        if isinstance(event, events.Paste) and not event.is_forwarded:  # else it is on its way back from where it went
            event = events.Paste(strip_controls(event.text))
        await super().on_event(event)

    def on_mount(self) -> None:
        """Say what was wrong with the configuration."""
        for problem in self._problems:
            self.notify(one_line(problem), severity="warning", markup=False)

    async def action_quit(self) -> None:
        """Stop the model and leave."""
        await asyncio.to_thread(self.backend.close)
        await super().action_quit()

    def action_toggle_light(self) -> None:
        """Switch between a light and a dark theme."""
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name

    def on_unmount(self) -> None:
        """However it ends: no model is left running."""
        self.backend.close()
