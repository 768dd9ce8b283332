"""Training an adapter: bar, figures and loss curve while it runs, and a summary in the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
    TrainSample,
    TrainStarted,
    TrainStep,
)
from llmmagic.magics.figures import bytes_text, count_text, rate_text, seconds_text
from llmmagic.magics.views.card import STOPPING, Answers, Bar, Card, CardStatus, Curve, Note
from llmmagic.magics.views.data import (
    columns_text,
    data_facts,
    percent,
    prepare_bar,
    refusals,
    rows_text,
    token_row,
)

Facts = tuple[tuple[str, str], ...]
_MOST_SAMPLES = 5
_LEAST_SHARE = 5  # of the axis, as a fraction: a fifth


class TrainView:
    """Folds the events of a training run.

    Attributes:
        started: What is trained, once known.
        steps: Every step so far.
        evals: Every evaluation so far.
        samples: Answers to sample prompts so far.
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
        self.samples: list[TrainSample] = []
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
            case TrainSample():
                self.samples.append(event)
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
            title, facts = (
                _outcome(self.finished),
                _summary(self.finished, self.steps, self.evals, full=self.started is not None and self.started.full),
            )
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
            answers=self._answers(),
        )

    def _whole_report(self) -> DataInspected | None:
        """All that is known of the data, where that is what there is to see: after a dry run or a refusal."""
        refused = self.started is None and self._status == "failed"
        dry = self._dry_run and self._status == "done"
        return self.inspected if dry or refused else None

    def _answers(self) -> tuple[Answers, ...]:
        """Of each prompt the first answer, the last one, and some between them."""
        by_prompt: dict[str, list[TrainSample]] = {}
        for sample in self.samples:
            by_prompt.setdefault(sample.prompt, []).append(sample)
        return tuple(Answers(prompt, tuple(map(self._answer, _some(given)))) for prompt, given in by_prompt.items())

    def _answer(self, sample: TrainSample) -> tuple[str, str]:
        last = self.finished is not None and self.finished.steps == sample.step
        when = "before" if sample.step == 0 else "after" if last else f"step {sample.step:,}"
        return when, (sample.text.strip() or "(nothing)") + (" …" if sample.finish_reason == "length" else "")

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
            facts += metric_facts([next((s.metrics for s in reversed(self.steps) if s.loss is not None), {})])
        if self.evals:
            facts.append(("Held-out loss", " → ".join(f"{e.loss:.3f}" for e in _first_and_last(self.evals))))
            facts += metric_facts([e.metrics for e in _first_and_last(self.evals)], "Held-out ")
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
        return (
            *(_short(started.data, ended=self.finished is not None) if short else ()),
            (
                "Trains",
                f"{count_text(started.trainable_parameters)} of {count_text(started.all_parameters)} "
                f"weights ({percent(started.trainable_parameters, started.all_parameters)})",
            ),
            ("Plan", f"{started.total_steps:,} steps of {rows_text(started.batch_size)}, {_passes(started.epochs)}"),
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


def _summary(finished: TrainFinished, steps: list[TrainStep], evals: list[TrainEval], *, full: bool) -> Facts:
    facts: list[tuple[str, str]] = []
    if finished.eval_loss_before is not None and finished.eval_loss_after is not None:
        before, after = finished.eval_loss_before, finished.eval_loss_after
        of_tokens = not evals or evals[-1].perplexity is not None
        perplexity = f" (perplexity {_exp(before)} → {_exp(after)})" if of_tokens else ""
        facts.append(("Held-out loss", f"{before:.3f} → {after:.3f}{perplexity}"))
        facts += metric_facts([e.metrics for e in _first_and_last(evals)], "Held-out ")
    if finished.first_loss is not None and finished.last_loss is not None:
        facts.append(("Training loss", f"{finished.first_loss:.3f} → {finished.last_loss:.3f}"))
        logged = [step.metrics for step in steps if step.metrics]
        facts += metric_facts([logged[0], logged[-1]] if len(logged) > 1 else logged)
    facts += [
        ("Speed", f"{rate_text(finished.tokens_per_s)} tokens/s"),
        ("Most memory", bytes_text(finished.peak_memory_bytes)),
        ("Model" if full else "Adapter", finished.adapter_dir),
    ]
    if finished.reason == "cancelled" and steps:
        facts.insert(0, ("Ran for", seconds_text(finished.duration_s)))
    return tuple(facts)


_METRICS = {
    "margin": "reward margin",
    "accuracy": "preferred as chosen",
    "reward_good": "reward of good answers",
    "reward_bad": "reward of bad answers",
    "kl": "KL from the base",
    "reward": "reward",
    "reward_std": "spread of the reward",
    "completion_tokens": "tokens per answer",
}
"""What a method measures besides the loss, for people."""


def metric_facts(measured: Sequence[dict[str, float]], about: str = "") -> list[tuple[str, str]]:
    """What a method measures, once or as it changed.

    Args:
        measured: In the order of time.
        about: Put before each name.
    """
    facts = []
    for name, words in _METRICS.items():
        values = [figures[name] for figures in measured if name in figures]
        if values:
            texts = [f"{value:.0%}" if name == "accuracy" else f"{value:.3f}" for value in values]
            label = f"{about}{words}"
            facts.append((label[0].upper() + label[1:], " → ".join(texts)))
    return facts


def _memory(memory: MemoryEstimate | None) -> Facts:
    """What the run will take up, as far as it can be told before."""
    if memory is None:
        return ()
    parts = (
        ("trained weights", memory.adapter_bytes),
        ("gradients", memory.gradient_bytes),
        ("optimiser", memory.optimizer_bytes),
        (f"activations of {rows_text(memory.rows)} of {memory.row_tokens:,} tokens", memory.activation_bytes),
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


def _some(samples: list[TrainSample]) -> list[TrainSample]:
    """At most `_MOST_SAMPLES`, the first and the last among them."""
    if len(samples) <= _MOST_SAMPLES:
        return samples
    places = {round(i * (len(samples) - 1) / (_MOST_SAMPLES - 1)) for i in range(_MOST_SAMPLES)}
    return [samples[place] for place in sorted(places)]


def _first_and_last(evals: list[TrainEval]) -> list[TrainEval]:
    return evals if len(evals) < 2 else [evals[0], evals[-1]]
