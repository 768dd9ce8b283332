"""A model on rows it was not trained on: a bar while it is measured, then the figures with the adapter and without."""

from __future__ import annotations

from typing_extensions import assert_never

from llmmagic.core.events import Cancelled, EvalEvent, EvalFinished, Notice, PrepareProgress, TasksFinished
from llmmagic.magics.figures import count_text
from llmmagic.magics.views.card import STOPPING, Bar, Card, CardStatus, Note

Facts = tuple[tuple[str, str], ...]


class EvalView:
    """Folds the events of an evaluation.

    Attributes:
        finished: The figures, once they are there.
    """

    def __init__(self, source: str, *, unit: str = "rows") -> None:
        """Begin.

        Args:
            source: What is evaluated on, for people.
            unit: What the bar counts.
        """
        self.finished: EvalFinished | TasksFinished | None = None
        self._source = source
        self._unit = unit
        self._progress: PrepareProgress | None = None
        self._status: CardStatus = "running"
        self._notes: list[Note] = []
        self._stopping = False

    def on(self, event: EvalEvent) -> None:
        """Take in an event."""
        match event:
            case Notice(text=text, level=level):
                self._notes.append(Note(text, level))
            case PrepareProgress():
                self._progress = event
            case EvalFinished() | TasksFinished():
                self.finished = event
                self._status = "done"
            case Cancelled():
                self._status = "stopped"
                self._notes.append(Note("Stopped. The session is as it was."))
            case _:
                assert_never(event)

    def stopping(self) -> None:
        """An end was asked for."""
        self._stopping = True

    def failed(self) -> None:
        """The operation raised."""
        self._status = "failed"

    def card(self) -> Card:
        """What there is to see now."""
        running = self._status == "running"
        notes = (*self._notes, STOPPING) if self._stopping and running else tuple(self._notes)
        return Card(
            title=f"{_VERBS[self._status]} {self._source}",
            status=self._status,
            bars=(self._bar(),) if running else (),
            facts=() if self.finished is None else _facts(self.finished),
            notes=notes,
        )

    def _bar(self) -> Bar:
        if self._progress is None:
            return Bar("Evaluate", None)
        done, total = self._progress.done, self._progress.total
        text = f"{done:,} {self._unit}" if total is None else f"{done:,} of {total:,} {self._unit}"
        return Bar("Evaluate", done / total if total else None, f"{text} · {self._progress.detail}")


_VERBS: dict[CardStatus, str] = {
    "running": "Evaluating on",
    "done": "Evaluated on",
    "stopped": "Stopped evaluating on",
    "failed": "Could not evaluate on",
}


def _facts(finished: EvalFinished | TasksFinished) -> Facts:
    if isinstance(finished, TasksFinished):
        scores = tuple((f"{score.task} {score.metric}", _score(score.value, score.stderr)) for score in finished.scores)
        return (*scores, ("Adapter", finished.adapter or "none"))
    base = finished.base
    if base is None:
        head: Facts = (("Measured", f"with the adapter {finished.adapter}"),) if finished.adapter else ()
        rows = (
            ("Loss", f"{finished.loss:.3f}"),
            ("Perplexity", f"{finished.perplexity:.4g}"),
            ("Token accuracy", f"{finished.token_accuracy:.1%}"),
        )
    else:
        head = (("", f"base → {finished.adapter}"),)
        better = finished.token_accuracy - base.token_accuracy
        rows = (
            ("Loss", f"{base.loss:.3f} → {finished.loss:.3f} ({finished.loss - base.loss:+.3f})"),
            ("Perplexity", f"{base.perplexity:.4g} → {finished.perplexity:.4g}"),
            (
                "Token accuracy",
                f"{base.token_accuracy:.1%} → {finished.token_accuracy:.1%} ({100 * better:+.1f} points)",
            ),
        )
    taken = f"{finished.rows:,} {'row' if finished.rows == 1 else 'rows'}, {count_text(finished.tokens)} tokens"
    return (*head, *rows, ("Taken on", taken))


def _score(value: float, stderr: float | None) -> str:
    return f"{value:.4f}" if stderr is None else f"{value:.4f} ± {stderr:.4f}"
