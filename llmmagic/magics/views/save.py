"""Saving a model: bars while it is merged and converted, and in the end what to do with it."""

from __future__ import annotations

from dataclasses import replace

from typing_extensions import assert_never

from llmmagic.core.events import Cancelled, LoadProgress, Notice, SaveEvent, SaveFinished
from llmmagic.magics.figures import bytes_text
from llmmagic.magics.views.card import Card, Note
from llmmagic.magics.views.load import LoadView, parity_text


class SaveView:
    """Folds the events of a save.

    Attributes:
        finished: The last event, once there.
    """

    def __init__(self, model_id: str) -> None:
        """Begin.

        Args:
            model_id: What is saved.
        """
        self.finished: SaveFinished | None = None
        self._model_id = model_id
        self._bars = LoadView(model_id, loaded_before=None)
        self._notes: list[Note] = []
        self._stopped = False

    def on(self, event: SaveEvent) -> None:
        """Take in an event."""
        match event:
            case LoadProgress():
                self._bars.on(event)
            case Notice(text=text, level=level):
                self._notes.append(Note(text, level))
            case Cancelled():
                self._stopped = True
            case SaveFinished():
                self.finished = event
            case _:
                assert_never(event)

    def stopping(self) -> None:
        """An end was asked for."""
        self._bars.stopping()

    def failed(self) -> None:
        """The operation raised."""
        self._bars.failed()

    def card(self) -> Card:
        """What there is to see now."""
        notes = tuple(self._notes)
        if self.finished is not None:
            return _saved_card(self.finished, notes)
        if self._stopped:
            return Card(f"Stopped saving {self._model_id}", "stopped", notes=(*notes, Note("Nothing was saved.")))
        running = self._bars.card()
        verb = "Could not save" if running.status == "failed" else "Saving"
        return replace(running, title=f"{verb} {self._model_id}", notes=(*running.notes, *notes))


def _saved_card(saved: SaveFinished, notes: tuple[Note, ...]) -> Card:
    facts = [("Saved to", saved.path), ("Weights", f"{bytes_text(saved.size_bytes)} in {saved.kind}")]
    if saved.adapter is not None:
        facts.append(("Merged in", saved.adapter))
    if saved.parity is not None:
        facts.append(("Against the original", parity_text(saved.parity)))
    if saved.modelfile is not None:
        facts.append(("For Ollama", f'ollama create NAME -f "{saved.modelfile}"'))
    facts.append(("Load it again", f'%llm_load "{saved.path}"'))
    title = "Saved as a GGUF file" if saved.format == "gguf" else "Saved the merged model"
    return Card(title, "done", facts=tuple(facts), notes=notes)
