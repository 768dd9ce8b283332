"""A card as a widget: what is seen while an operation runs, also by a browser that was closed meanwhile."""

from __future__ import annotations

import sys

import anywidget
import traitlets

_SCRIPT = """
export default {
  render({ model, el }) {
    // The kernel has rendered it and made it harmless.
    const draw = () => { el.innerHTML = model.get("value"); };
    draw();
    model.on("change:value", draw);
    return () => {
      model.off("change:value", draw);
      // The static card has taken its place, in this browser at least: the widget is not needed any more.
      try {
        if (model.get("final")) model.send("replaced");
      } catch {
        // the kernel has gone before
      }
    };
  },
};
"""


class LiveCard(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget is not typed here
    """Shows HTML that changes, until a static card has taken its place.

    A browser that is closed while a cell runs never hears of what came in the place of the widget: opened again, the
    notebook has the widget. So it lives on, with how it ended, until a browser says that it has replaced it.
    """

    _esm = _SCRIPT
    value = traitlets.Unicode().tag(sync=True)
    final = traitlets.Bool(False).tag(sync=True)

    def __init__(self, html: str) -> None:
        """Show HTML."""
        super().__init__(value=html)
        self.on_msg(self._on_message)

    def end(self, html: str) -> None:
        """Show how it ended; call it before the static card is shown."""
        self.value, self.final = html, True

    def let_go(self) -> None:
        """Close it where no word comes from the browser; call it after the static card is shown."""
        # Colab throws the frame of an output away without a word, and saves the state of all widgets that are left.
        if "google.colab" in sys.modules:
            self._close()

    def _on_message(self, _: object, content: object, buffers: object) -> None:
        if content == "replaced" and self.final:
            self._close()

    def _close(self) -> None:
        # Closing a widget leaves the one that it made for itself.
        for part in (self.layout, self):
            part.close()
