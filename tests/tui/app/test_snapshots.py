"""How the main screens look, in both themes and two sizes. After a wanted change: ``pytest --snapshot-update``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from textual.pilot import Pilot

from llmmagic.core.chat.messages import Message, WindowMark
from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Head
from llmmagic.core.config import GenerationConfig
from llmmagic_tui.app import ChatApp
from llmmagic_tui.settings import Settings
from tests.tui.app.helpers import Chat

LIMIT = 1300
MOMENT = datetime(2024, 3, 9, 14, 5, tzinfo=timezone.utc)
REPLY = """<think>
A short list and a bit of code will do.
</think>

## Sorting

Use **`sorted`** for a new list, or `list.sort` *in place*. See [the docs](https://docs.python.org/3/howto/sorting.html).

```python
def by_length(words: list[str]) -> list[str]:
    return sorted(words, key=len)  # shortest first
```

1. It is stable.
2. It takes `key` and `reverse`.

| call | returns |
|---|---|
| `sorted(x)` | a new list |
| `x.sort()` | `None` |
"""
Before = Callable[[Chat], Awaitable[None]]


def message(number: int, role: Any, content: str, **fields: Any) -> Message:
    parent = f"m{number - 1}" if number > 1 else None
    return Message(id=f"m{number}", role=role, content=content, created=MOMENT, **{"parent": parent, **fields})


@pytest.fixture
def talk(store: ConversationStore) -> str:
    """A conversation whose first turn has dropped out of the window, and two more for the list."""
    messages = [
        message(1, "user", "What is the tallest mountain? " * 6),
        message(2, "assistant", "Mount Everest. " * 8, finish_reason="stop", token_count=120, model_id="tiny-random"),
        message(3, "user", "And the second one? " * 5, rating=None),
        message(4, "assistant", "K2, 8,611 m.", finish_reason="cancelled", token_count=12, model_id="tiny-random"),
        message(5, "user", "How do I sort in Python?", pinned=True, mark=WindowMark("m3", LIMIT)),
        message(6, "assistant", "Use sorted.", finish_reason="stop", token_count=11, model_id="tiny-random"),
        message(
            7, "assistant", REPLY, parent="m5", finish_reason="stop", token_count=520, rating=1, model_id="tiny-random"
        ),
    ]
    store.save(Head("talk", MOMENT, MOMENT, title="Sorting and mountains", system="Be brief.", leaf="m7"), messages)
    for name, title in (("a", "A limerick about [bold]foxes[/bold]"), ("b", "Times New Roman or Montserrat")):
        first = Message(id=name, role="user", content=title, created=MOMENT)
        store.save(Head(f"talk-{name}", MOMENT, MOMENT, leaf=name), [first])
    return "talk"


async def nothing(chat: Chat) -> None:
    """As it opens."""


async def draft(chat: Chat) -> None:
    """A draft that drops a turn when it is sent."""
    chat.screen.composer.text = "And how do I sort backwards, by length, without losing the order of equal words?\n" * 2


async def scrolled_up(chat: Chat) -> None:
    """The line between what the model sees and what it does not."""
    await draft(chat)
    await chat.settled()
    await chat.press("escape", "home", "down")


async def press(chat: Chat, *keys: str) -> None:
    await draft(chat)
    await chat.settled()
    await chat.press(*keys)


SCREENS: dict[str, Before] = {
    "chat": draft,
    "window": scrolled_up,
    "context": lambda chat: press(chat, "f2"),
    "split": lambda chat: press(chat, "f4", "f5"),
}
OTHERS: dict[str, Before] = {
    "help": lambda chat: press(chat, "f1"),
    "settings": lambda chat: press(chat, "f8"),
    "model": lambda chat: press(chat, "f9"),
    "editor": lambda chat: press(chat, "escape", "b"),
    "list": lambda chat: press(chat, "f3"),
}
SIZES = ((80, 24), (120, 40))


@pytest.fixture(autouse=True)
def always_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else this process has loaded."""
    monkeypatch.setattr("llmmagic.core.session.Session.memory_bytes", lambda self: 512_000_000)


def compare(snap_compare: Any, theme: str, size: tuple[int, int], before: Before) -> None:
    generation = GenerationConfig(temperature=0, max_new_tokens=64)
    settings = Settings(model="tiny-random", theme=theme, context=LIMIT, generation=generation)
    app = ChatApp(settings, conversation="talk", worker=False)

    async def run_before(pilot: Pilot[Any]) -> None:
        chat = Chat(app, pilot)
        await chat.ready()
        chat.screen.composer.cursor_blink = False
        await before(chat)
        await chat.settled()
        info = chat.screen.status.status.info
        assert info is not None
        # The same on a machine with a GPU.
        chat.screen.status.update(info=replace(info, device="cpu", dtype="float32"))
        app._notifications.clear()
        await pilot.pause()
        await asyncio.sleep(0.1)
        for area in app.screen.query("TextArea, Input"):
            area.cursor_blink = False  # type: ignore[attr-defined]
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=run_before)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("theme", ["llmchat-dark", "llmchat-light"])
@pytest.mark.parametrize("screen", SCREENS)
def test_main_screens(snap_compare: Any, talk: str, screen: str, theme: str, size: tuple[int, int]) -> None:
    """The chat, its window, its detail and the split view."""
    compare(snap_compare, theme, size, SCREENS[screen])


@pytest.mark.parametrize("screen", OTHERS)
def test_other_screens(snap_compare: Any, talk: str, screen: str) -> None:
    """What opens above the chat, at the smallest size."""
    compare(snap_compare, "llmchat-dark", (80, 24), OTHERS[screen])
