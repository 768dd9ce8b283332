"""The panel as a widget of the notebook, and the copy of the conversation for readers without a kernel."""

from __future__ import annotations

import uuid
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets
from IPython.display import display, update_display

from llmmagic.core.config import GenerationConfig
from llmmagic.magics.panel.panel import ChatPanel
from llmmagic.magics.panel.transcript import transcript_bundle
from llmmagic.magics.screens.kernel import WIDGET_MIME

if TYPE_CHECKING:
    from llmmagic.core.chat.tree import Conversation
    from llmmagic.magics.panel.hub import PanelHub

_STATIC = files("llmmagic.magics.panel") / "static"
# One module for the browser; apart from each other they can be read.
_SCRIPTS = ("dom.js", "window.js", "messages.js", "panel.js")


class PanelWidget(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget is not typed here
    """Carries messages between a `ChatPanel` and the browser."""

    _esm = "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    _css = (_STATIC / "panel.css").read_text(encoding="utf-8")
    # Drawn before the first message comes: while cells run, none does. Made when it is asked for, so that a browser
    # that is opened later gets what there is then.
    first: Any = traitlets.List().tag(sync=True, to_json=lambda value, widget: widget.snapshot())
    copy = traitlets.Unicode().tag(sync=True)

    def __init__(self, hub: PanelHub, name: str, generation: GenerationConfig) -> None:
        """Make a panel; `show` shows it.

        Args:
            hub: Of the session.
            name: Of the conversation.
            generation: How replies are sampled.
        """
        self._display_id = uuid.uuid4().hex
        self.panel = ChatPanel(hub, name, generation, send=self.send, keep=self._keep)
        super().__init__(copy=f"llmmagic-copy-{self._display_id}")
        self.on_msg(self._on_message)

    def snapshot(self) -> list[dict[str, Any]]:
        """What there is to see now."""
        return self.panel.snapshot()

    def show(self) -> None:
        """Put the panel into the cell's output, and the copy beneath it; while the panel lives it hides the copy."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        bundle = getattr(self, "_repr_mimebundle_", None)  # ipywidgets 7 has none; later ones add what Colab needs
        data, metadata = ({WIDGET_MIME: view}, {}) if bundle is None else bundle()
        data["text/plain"] = "Chat panel: run this cell to talk."
        display(data, metadata=metadata, raw=True)
        display(transcript_bundle(self.panel.talk, self.copy), raw=True, display_id=self._display_id)

    def _on_message(self, _: object, content: object, buffers: object) -> None:
        self.panel.handle(content)

    def _keep(self, talk: Conversation) -> None:
        update_display(transcript_bundle(talk, self.copy), raw=True, display_id=self._display_id)
