"""A notebook: live while a person watches, static HTML and plain text in what is saved."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from IPython.display import display, update_display

from llmmagic.core.sanitize import one_line
from llmmagic.magics.html import card_html, reply_html
from llmmagic.magics.screens.plain import PlainReplyScreen, write
from llmmagic.magics.text import card_text, reply_text
from llmmagic.magics.views.card import Card
from llmmagic.magics.views.reply import ReplyCard

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

WIDGET_MIME = "application/vnd.jupyter.widget-view+json"


class _Output:
    """One output of the cell that can be replaced, from the first draw on."""

    def __init__(self) -> None:
        self._display_id: str | None = None

    def show(self, bundle: dict[str, Any]) -> None:
        """Show this instead of what was shown before."""
        if self._display_id is None:
            self._display_id = uuid.uuid4().hex
            display(bundle, raw=True, display_id=self._display_id)
        else:
            update_display(bundle, raw=True, display_id=self._display_id)


class WidgetCardScreen:
    """A live widget, in the end replaced by static HTML.

    The widget is closed then: a saved notebook has no widget state, which viewers such as GitHub's stumble over.
    """

    def __init__(self) -> None:
        self._output = _Output()
        self._widget: Any = None

    def draw(self, state: Card) -> None:
        """Show the card live."""
        if self._widget is None:
            from llmmagic.magics.screens.live_card import LiveCard

            self._widget = LiveCard(card_html(state))
            view = {"version_major": 2, "version_minor": 0, "model_id": self._widget.model_id}
            self._output.show({WIDGET_MIME: view, **_bundle(state)})
        else:
            self._widget.value = card_html(state)

    def close(self, state: Card) -> None:
        """Leave static HTML behind."""
        if self._widget is not None:
            self._widget.end(card_html(state))
        self._output.show(_bundle(state))
        if self._widget is not None:
            self._widget.let_go()
            self._widget = None


class HtmlCardScreen:
    """Static HTML that is replaced as things go on: where no one can look at a widget."""

    def __init__(self) -> None:
        self._output = _Output()

    def draw(self, state: Card) -> None:
        """Show the card."""
        self._output.show(_bundle(state))

    close = draw


class HtmlReplyScreen:
    """A reply that grows in place."""

    def __init__(self) -> None:
        self._output = _Output()

    def draw(self, state: ReplyCard) -> None:
        """Show the reply so far."""
        self._output.show({"text/html": reply_html(state), "text/plain": reply_text(state)})

    close = draw


class KernelFrontEnd:
    """A notebook, or anything else that speaks to a kernel."""

    colour = True

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell

    @property
    def attended(self) -> bool:
        """Whether someone is there to see a widget."""
        # nbclient and papermill answer no questions and say so with each request. They write down the state of every
        # widget that ever was, so they get none.
        return bool(getattr(self._shell.kernel, "_allow_stdin", True)) and _widgets_work()

    def card_screen(self) -> WidgetCardScreen | HtmlCardScreen:
        """A widget, if someone is there to see it."""
        return WidgetCardScreen() if self.attended else HtmlCardScreen()

    def reply_screen(self, *, raw: bool) -> HtmlReplyScreen | PlainReplyScreen:
        """Rendered Markdown, or the raw text."""
        return PlainReplyScreen() if raw else HtmlReplyScreen()

    def show(self, card: Card) -> None:
        """Show the card."""
        display(_bundle(card), raw=True)

    def say(self, text: str) -> None:
        """Print one line."""
        write(one_line(text))


def _bundle(card: Card) -> dict[str, Any]:
    return {"text/html": card_html(card), "text/plain": card_text(card)}


def _widgets_work() -> bool:
    try:
        import anywidget  # noqa: F401
    except ImportError:
        return False
    return True
