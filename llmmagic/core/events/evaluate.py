"""What measuring a model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, Union

from llmmagic.core.events.common import Cancelled, Notice
from llmmagic.core.events.data import PrepareProgress


@dataclass(frozen=True, slots=True)
class EvalFinished:
    """What the model, with the adapter that is on, makes of held-out rows.

    Attributes:
        loss: Mean negative log-likelihood per trained token, in nats.
        perplexity: ``exp(loss)``.
        token_accuracy: Share of trained tokens that are the model's first choice.
        tokens: How many tokens that is over.
        rows: How many rows.
        adapter: The adapter that was on, if any.
        base: The same of the bare model, if an adapter was on and it was measured.
    """

    loss: float
    perplexity: float
    token_accuracy: float
    tokens: int
    rows: int
    adapter: str | None
    base: EvalFinished | None = None


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What a model reaches in one task of lm-eval-harness.

    Attributes:
        task: Its name.
        metric: ``"acc"``, ``"exact_match"``, ...
        value: The score.
        stderr: Its standard error; ``None`` if the harness gives none.
    """

    task: str
    metric: str
    value: float
    stderr: float | None


@dataclass(frozen=True, slots=True)
class TasksFinished:
    """What the model, with the adapter that is on, reaches in tasks.

    Attributes:
        scores: One per task and metric.
        adapter: The adapter that was on, if any.
    """

    scores: tuple[TaskScore, ...]
    adapter: str | None


EvalEvent: TypeAlias = Union[Notice, Cancelled, PrepareProgress, EvalFinished, TasksFinished]
