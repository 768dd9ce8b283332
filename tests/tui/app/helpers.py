"""What the tests of the app share: start it, wait for it, look at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from llmmagic.core.config import GenerationConfig
from llmmagic_tui.app import ChatApp
from llmmagic_tui.screens.chat import ChatScreen
from llmmagic_tui.settings import Settings

GREEDY = GenerationConfig(temperature=0, max_new_tokens=24)
# Without repetitions: those are drafted, and the reply would be over before anything can happen to it.
LONG = GenerationConfig(temperature=0, max_new_tokens=1900, repetition_penalty=5)


class Chat:
    """A running app with its parts at hand."""

    def __init__(self, app: ChatApp, pilot: Pilot[Any]) -> None:
        self.app = app
        self.pilot = pilot
        screen = app.screen_stack[0]
        assert isinstance(screen, ChatScreen)
        self.screen = screen

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def until(self, condition: Callable[[], object], timeout_s: float = 30.0) -> None:
        """Wait until something is so."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end, f"waited {timeout_s} s in vain; status: {self.screen.status.status}"
            await asyncio.sleep(0.02)
        await self.pilot.pause()

    async def ready(self) -> None:
        """Wait until the model is loaded and nothing runs."""
        screen = self.screen
        # The first load of a test run imports torch.
        await self.until(
            lambda: screen.backend.is_ready and screen.running is None and screen.panes[0].report, timeout_s=120
        )

    async def settled(self) -> None:
        """Wait until what was started by a key is done, the count of the window included."""
        await self.until(lambda: self.screen.running is None)
        await self.until(lambda: not self.screen.counting and not list(self.app.workers))

    async def send(self, text: str) -> None:
        """Write a message, send it, wait for the reply."""
        before = len(self.messages)
        self.screen.composer.text = text
        await self.press("enter")
        await self.until(lambda: len(self.messages) > before and self.screen.running is None)
        await self.settled()

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Role and text of what the active pane shows."""
        return [(m.role, m.content) for m in self.screen.active.transcript.messages]

    @property
    def path(self) -> list[Any]:
        """The active path of the conversation on screen."""
        conversation = self.screen.active.conversation
        assert conversation is not None
        return conversation.path()

    @property
    def notices(self) -> list[str]:
        """What was said in notices."""
        return [notification.message for notification in self.app._notifications]

    def text(self) -> str:
        """The active transcript as it is on screen."""
        transcript = self.screen.active.transcript
        return "\n".join(transcript.render_line(y).text.rstrip() for y in range(transcript.size.height))


@asynccontextmanager
async def chat_app(
    *,
    size: tuple[int, int] = (110, 36),
    conversation: str | None = None,
    worker: bool = False,
    load: bool = True,
    **settings: Any,
) -> AsyncIterator[Chat]:
    """The app with the tiny model, by default in this process: that loads in a moment."""
    chosen = Settings(
        **{"model": "tiny-random", "engine": "transformers", "generation": GREEDY, "theme": "llmchat-dark", **settings}
    )
    app = ChatApp(chosen, conversation=conversation, worker=worker)
    async with app.run_test(size=size) as pilot:
        chat = Chat(app, pilot)
        if load:
            await chat.ready()
        yield chat
        chat.screen.backend.session.cancel()
        await chat.until(lambda: chat.screen.running is None)
