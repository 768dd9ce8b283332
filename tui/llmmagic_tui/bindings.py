"""Every key of the app, in one table.

The footer, the help screen and the command palette are made from it, and so is the check of the ``[keys]`` table of the
configuration: an id that stands here can be given other keys. Textual looks a remapped key up by the id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from textual.binding import Binding
from textual.keys import format_key

from llmmagic.core.errors import did_you_mean

_ENTER = "⏎"  # what Textual shows for it


def _bind(keys: str, action: str, id: str, words: str, tooltip: str, *, show: bool = False) -> Binding:
    return Binding(keys, action, words, show=show, tooltip=tooltip, id=id)


def _first(keys: str, action: str, id: str, words: str, tooltip: str, *, show: bool = False) -> Binding:
    """A key that works before the widget with the focus sees it."""
    return Binding(keys, action, words, show=show, tooltip=tooltip, id=id, priority=True)


SCREEN: list[Binding] = [
    _first("f1", "help", "help", "Help", "All keys, and how the window is to be read", show=True),
    _first("f2", "context", "context", "Context", "The context window, message by message", show=True),
    _first("f3", "conversations", "conversations", "Chats", "Show and search the conversations", show=True),
    _first("f4", "split", "split", "Split", "Two conversations side by side, or one again", show=True),
    _first("f5", "send_to_both", "send_to_both", "Both", "Send to both conversations, or to one again"),
    _first("f6", "other_pane", "other_pane", "Other side", "Go to the other conversation"),
    _first("f7", "system", "system", "System prompt", "Write the system prompt of this conversation"),
    _first("f8", "settings", "settings", "Settings", "Sampling, reply length, what happens when the window is full"),
    _first("f9", "model", "model", "Model", "Load another model, or start one again that died"),
    _first("ctrl+n", "new", "new_conversation", "New", "Start a new conversation", show=True),
    _first("ctrl+r", "regenerate", "regenerate", "Again", "Another reply, on a branch of its own", show=True),
    _bind("escape", "stop", "stop", "Stop", "Stop the reply; otherwise go between input and messages", show=True),
    _first("ctrl+p", "app.command_palette", "palette", "Palette", "Search for anything the app can do", show=True),
    _first("ctrl+t", "theme", "theme", "Light/dark", "Switch between the light and the dark theme"),
    _first("ctrl+q", "app.quit", "quit", "Quit", "Leave; nothing is lost"),
]  # fmt: skip
COMPOSER: list[Binding] = [
    _first("enter", "send", "send", "Send", "Send the message", show=True),
    _first("ctrl+j,shift+enter", "newline", "newline", "New line", "Begin a new line"),
]
TRANSCRIPT: list[Binding] = [
    _bind("up,k", "move(-1)", "message_up", "Message up", "Select the message above"),
    _bind("down,j", "move(1)", "message_down", "Message down", "Select the message below"),
    _bind("home,g", "first", "message_first", "First message", "Select the first message"),
    _bind("end,G", "last", "message_last", "Last message", "Select the last message"),
    _bind("i,enter", "write", "write", "Write", "Back to the input"),
    _bind("y", "do('copy')", "copy", "Copy", "Copy the message", show=True),
    _bind("e", "do('edit')", "edit", "Edit", "Say it differently, on a branch of its own", show=True),
    _bind("p", "do('pin')", "pin", "Pin", "Keep the message in the window, or let it go again", show=True),
    _bind("plus", "do('rate(1)')", "rate_good", "Good", "Rate the reply good, or take that back", show=True),
    _bind("minus", "do('rate(-1)')", "rate_bad", "Bad", "Rate the reply bad, or take that back", show=True),
    _bind("b", "do('better')", "better", "Better", "Write the reply you would have wanted", show=True),
    _bind("c", "do('continue')", "continue", "Continue", "Go on with a reply that was stopped", show=True),
    _bind("r", "do('regenerate')", "regenerate_this", "Regenerate", "Another reply in place of this one"),
    _bind("left_square_bracket", "do('branch(-1)')", "branch_previous", "Previous branch", "The branch before"),
    _bind("right_square_bracket", "do('branch(1)')", "branch_next", "Next branch", "The branch after"),
    _bind("t", "do('fold')", "fold_thinking", "Thinking", "Fold or unfold the thinking part"),
]  # fmt: skip
CONVERSATIONS: list[Binding] = [
    _bind("slash", "search", "search", "Search", "Search in all conversations", show=True),
    _bind("r", "rename", "rename", "Rename", "Give the conversation another title", show=True),
    _bind("d,delete", "delete", "delete", "Delete", "Delete the conversation; it can be undone", show=True),
    _bind("u", "undo", "undo_delete", "Undo", "Bring back what was deleted last", show=True),
    _bind("o", "open_beside", "open_beside", "Beside", "Open in the other half of the screen", show=True),
]


class Group(NamedTuple):
    """Keys that work in one place."""

    title: str
    bindings: list[Binding]


GROUPS: tuple[Group, ...] = (
    Group("Everywhere", SCREEN),
    Group("While writing", COMPOSER),
    Group("On a message", TRANSCRIPT),
    Group("In the list of conversations", CONVERSATIONS),
)


class Keymap:
    """The keys as the user has set them."""

    IDS: ClassVar[tuple[str, ...]] = tuple(str(binding.id) for group in GROUPS for binding in group.bindings)

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Take over what the configuration says.

        Args:
            keys: Binding id -> keys as Textual writes them. Unknown ids are left out; see `warnings`.
        """
        self.keys = {name: value for name, value in keys.items() if name in self.IDS and value.strip()}
        self._unknown = [name for name in keys if name not in self.IDS]

    @property
    def warnings(self) -> list[str]:
        """One sentence for each id that does not exist."""
        return [f"[keys]: nothing is called {name!r}. {did_you_mean(name, self.IDS)}".strip() for name in self._unknown]

    def of(self, binding: Binding) -> str:
        """The keys of a binding."""
        return self.keys.get(str(binding.id), binding.key)

    def name(self, id: str) -> str:
        """What a sentence calls the key of an action: ``"F9"``, ``"Esc"``, ``"Ctrl+J"``.

        Raises:
            KeyError: There is no action of that id.
        """
        binding = find((binding for group in GROUPS for binding in group.bindings), id)
        *modifiers, key = first_key(self.of(binding)).split("+")
        shown = format_key(key)
        if shown == _ENTER:
            shown = "Enter"
        elif len(shown) > 1 or modifiers:
            shown = shown.capitalize()
        return "+".join([*(modifier.capitalize() for modifier in modifiers), shown])


def first_key(keys: str) -> str:
    """The first of several keys."""
    return keys.split(",")[0].strip()


def find(bindings: Iterable[Binding], id: str) -> Binding:
    """The binding of that id.

    Raises:
        KeyError: There is none.
    """
    for binding in bindings:
        if binding.id == id:
            return binding
    raise KeyError(id)
