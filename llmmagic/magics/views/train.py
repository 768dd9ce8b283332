"""Training an adapter: bar, figures and loss curve while it runs, and a summary in the end."""

from __future__ import annotations

import math

from typing_extensions import assert_never

from llmmagic.core.events import (
    Cancelled,
    DataInspected,
    DataReport,
    MemoryEstimate,
    Notice,
    PrepareProgress,
    TrainEval,
    TrainEvent,
    TrainFinished,
    TrainStarted,
    TrainStep,
)
from llmmagic.magics.figures import bytes_text, count_text, rate_text, seconds_text
from llmmagic.magics.views.card import STOPPING, Bar, Card, CardStatus, Curve, Note
from llmmagic.magics.views.data import (
    columns_text,
    data_facts,
    percent,
    prepare_bar,
    refusals,
    token_row,
)

Facts = tuple[tuple[str, str], ...]
_LEAST_SHARE = 5  # of the axis, as a fraction: a fifth


class TrainView:
    """Folds the events of a training run.

    Attributes:
        started: What is trained, once known.
        steps: Every step so far.
        evals: Every evaluation so far.
        inspected: What became of the rows.
        finished: The last event of a run that trained.
    """

    def __init__(self, name: str, *, dry_run: bool = False) -> None:
        """Begin.

        Args:
            name: Of the adapter.
            dry_run: Whether it ends before the first step.
        """
        self.started: TrainStarted | None = None
        self.steps: list[TrainStep] = []
        self.evals: list[TrainEval] = []
        self.inspected: DataInspected | None = None
        self.finished: TrainFinished | None = None
        self._name = name
        self._dry_run = dry_run
        self._prepare: PrepareProgress | None = None
        self._status: CardStatus = "running"
        self._notes: list[Note] = []
        self._stopping = False

    def on(self, event: TrainEvent) -> None:
        """Take in an event."""
        match event:
            case Notice(text=text, level=level):
                note = Note(text, level)
                if note not in self._notes:  # held-out rows are looked at like those that are trained on
                    self._notes.append(note)
            case PrepareProgress():
                self._prepare = event
            case DataInspected():
                self.inspected = event
            case TrainStarted():
                self.started = event
                if self._dry_run:
                    self._status = "done"
            case TrainStep():
                self.steps.append(event)
            case TrainEval():
                self.evals.append(event)
            case TrainFinished(reason=reason):
                self.finished = event
                self._status = "done" if reason == "completed" else "stopped"
            case Cancelled():
                self._status = "stopped"
                self._notes.append(Note("Stopped before the first step. The session is as it was."))
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
        if self.finished is not None:
            title, facts = _outcome(self.finished), _summary(self.finished, self.steps)
        elif self._dry_run and self._status == "done":
            title, facts = f"Dry run of {self._name}: nothing was trained", ()
        else:
            title, facts = f"{_VERBS[self._status]} {self._name}", self._figures()
        report = self._whole_report()
        notes = tuple(self._notes)
        if self._stopping and self._status == "running":
            notes += (STOPPING,)
        return Card(
            title=title,
            status=self._status,
            bars=() if self._status == "done" or self.finished else self._bars(),
            facts=facts + self._what() if report is None else data_facts(report) + self._what(short=False),
            curve=self._curve(),
            notes=notes if report is None else notes + refusals(report.findings),
            details=() if self.started is None else tuple(self.started.settings.items()),
            tokens=() if report is None else tuple(map(token_row, report.views)),
        )

    def _whole_report(self) -> DataInspected | None:
        """All that is known of the data, where that is what there is to see: after a dry run or a refusal."""
        refused = self.started is None and self._status == "failed"
        dry = self._dry_run and self._status == "done"
        return self.inspected if dry or refused else None

    def _bars(self) -> tuple[Bar, ...]:
        if self.started is None:
            return (prepare_bar(self._prepare),)
        if not self.steps:
            return (Bar("Steps", 0.0, f"0 of {self.started.total_steps:,}"),)
        last = self.steps[-1]
        text = f"{last.step:,} of {last.total_steps:,} · {seconds_text(last.elapsed_s)}"
        if last.step < last.total_steps:
            text += f" · {seconds_text(last.eta_s)} left"
        return (Bar("Steps", last.step / max(last.total_steps, 1), text),)

    def _figures(self) -> Facts:
        facts: list[tuple[str, str]] = []
        loss = next((step.loss for step in reversed(self.steps) if step.loss is not None), None)
        if loss is not None:
            facts.append(("Loss", f"{loss:.3f}"))
        if self.evals:
            facts.append(("Held-out loss", " → ".join(f"{e.loss:.3f}" for e in _first_and_last(self.evals))))
        if self.steps:
            last = self.steps[-1]
            facts.append(("Learning rate", f"{last.learning_rate:.2e}"))
            facts.append(("Speed", f"{rate_text(last.tokens_per_s)} tokens/s"))
            facts.append(("Memory", bytes_text(last.memory_bytes)))
        return tuple(facts)

    def _what(self, *, short: bool = True) -> Facts:
        if self.started is None:
            return ()
        started = self.started
        share = 100 * started.trainable_parameters / max(started.all_parameters, 1)
        return (
            *(_short(started.data, ended=self.finished is not None) if short else ()),
            (
                "Trains",
                f"{count_text(started.trainable_parameters)} of {count_text(started.all_parameters)} "
                f"weights ({share:.2g} %)",
            ),
            ("Plan", f"{started.total_steps:,} steps of {started.batch_size} rows, {_passes(started.epochs)}"),
            *(_memory(started.memory) if self.finished is None else ()),
            *((("Folder", started.output_dir),) if self.finished is None else ()),
        )

    def _curve(self) -> Curve | None:
        train = tuple((s.step, s.loss) for s in self.steps if s.loss is not None and math.isfinite(s.loss))
        held_out = tuple((e.step, e.loss) for e in self.evals if math.isfinite(e.loss))
        if len(train) < 2:
            return None
        last = train[-1][0]
        if self.finished is not None or self.started is None:
            return Curve(train, held_out, last)
        # at the beginning of a long run the axis ends early, so that there is a curve to see
        return Curve(train, held_out, min(self.started.total_steps, last * _LEAST_SHARE))


_VERBS: dict[CardStatus, str] = {
    "running": "Training",
    "done": "Trained",
    "stopped": "Stopped training",
    "failed": "Could not train",
}


def _outcome(finished: TrainFinished) -> str:
    if finished.reason == "cancelled":
        return f"{finished.name}: stopped at step {finished.steps:,} of {finished.total_steps:,}, adapter kept"
    return f"{finished.name}: {finished.steps:,} steps in {seconds_text(finished.duration_s)}"


def _summary(finished: TrainFinished, steps: list[TrainStep]) -> Facts:
    facts: list[tuple[str, str]] = []
    if finished.eval_loss_before is not None and finished.eval_loss_after is not None:
        before, after = finished.eval_loss_before, finished.eval_loss_after
        facts.append(("Held-out loss", f"{before:.3f} → {after:.3f} (perplexity {_exp(before)} → {_exp(after)})"))
    if finished.first_loss is not None and finished.last_loss is not None:
        facts.append(("Training loss", f"{finished.first_loss:.3f} → {finished.last_loss:.3f}"))
    facts += [
        ("Speed", f"{rate_text(finished.tokens_per_s)} tokens/s"),
        ("Most memory", bytes_text(finished.peak_memory_bytes)),
        ("Adapter", finished.adapter_dir),
    ]
    if finished.reason == "cancelled" and steps:
        facts.insert(0, ("Ran for", seconds_text(finished.duration_s)))
    return tuple(facts)


def _memory(memory: MemoryEstimate | None) -> Facts:
    """What the run will take up, as far as it can be told before."""
    if memory is None:
        return ()
    parts = (
        ("trained weights", memory.adapter_bytes),
        ("gradients", memory.gradient_bytes),
        ("optimiser", memory.optimizer_bytes),
        (f"activations of {memory.rows:,} rows of {memory.row_tokens:,} tokens", memory.activation_bytes),
    )
    listed = ", ".join(f"{name} {bytes_text(count)}" for name, count in parts)
    free = f"{bytes_text(memory.free_bytes)} free on {memory.device}"
    return (("Memory plan", f"about {bytes_text(memory.needed_bytes)} more, {free}; {listed}"),)


def _passes(epochs: float) -> str:
    figure = f"{epochs:,.0f}" if epochs >= 100 else f"{epochs:.3g}"
    return f"{figure} {'pass' if figure == '1' else 'passes'} over the data"


def _exp(loss: float) -> str:
    return f"{math.exp(loss):.3g}" if loss < 50 else "∞"


def _short(data: DataReport, *, ended: bool) -> Facts:
    """The data in a line or two."""
    facts: Facts = (("Data", _data(data)),)
    return facts if ended or not data.columns else (*facts, ("Columns", columns_text(data)))


def _data(data: DataReport) -> str:
    parts = [f"{data.rows:,} rows ({data.format}) from {data.source}"]
    if data.eval_rows:
        parts.append(f"{data.eval_rows:,} held out")
    if data.total_tokens:
        share = percent(data.trained_tokens, data.total_tokens)
        parts.append(f"{count_text(data.total_tokens)} tokens, {share} of them trained on")
    if data.truncated_rows:
        parts.append(f"{data.truncated_rows:,} rows cut off")
    return "; ".join(parts)


def _first_and_last(evals: list[TrainEval]) -> list[TrainEval]:
    return evals if len(evals) < 2 else [evals[0], evals[-1]]
