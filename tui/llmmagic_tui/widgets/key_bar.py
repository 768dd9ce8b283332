"""The last line of the screen: the keys that do something where the focus is.

Textual's own Footer makes a widget of every key, anew whenever the focus moves; nine of them take longer than the rest
of the first frame. This one draws a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.widget import Widget

_KEY, _WORDS = "key-bar--key", "key-bar--words"


class KeyBar(Widget):
    """Keys and what they do; a click is as good as the key."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {_KEY, _WORDS}
    DEFAULT_CSS = """
    KeyBar {
        dock: bottom;
        height: 1;
        color: $footer-foreground;
        background: $footer-background;
        & > .key-bar--key { color: $footer-key-foreground; text-style: bold; }
        & > .key-bar--words { color: $footer-description-foreground; }
    }
    """

    def on_mount(self) -> None:
        """Follow the focus."""
        self.auto_links = False  # keys look like keys, not like underlined links
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def bindings(self) -> Iterator[Binding]:
        """What can be pressed now and is meant to be shown: one key for each action."""
        seen: set[str] = set()
        for _, binding, enabled, _ in self.screen.active_bindings.values():
            if binding.show and enabled and binding.action not in seen:
                seen.add(binding.action)
                yield binding

    def render(self) -> Text:
        """As many keys as there is room for; none is cut in two."""
        key_style, words_style = (self.get_component_rich_style(name, partial=True) for name in (_KEY, _WORDS))
        line = Text(no_wrap=True)
        for binding in self.bindings():
            click = Style(meta={"@click": f"app.simulate_key({binding.key!r})", "tooltip": binding.tooltip})
            key = Text(f" {self.app.get_key_display(binding)}", key_style + click)
            item = key.append(f" {binding.description} ", words_style + click)
            if line.cell_len + item.cell_len > self.size.width:
                break
            line.append_text(item)
        return line

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Say more about the key under the mouse."""
        self.tooltip = event.style.meta.get("tooltip") or None
