"""What any front end can draw: one look for loading, training and whatever else takes its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, Union

from llmmagic.core.events import NoticeLevel, TokenKind

RunKind: TypeAlias = Union[TokenKind, Literal["gap"]]
CardStatus = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True, slots=True)
class Bar:
    """One progress bar.

    Attributes:
        label: What is counted.
        done: Between 0 and 1; ``None`` while it is not known.
        text: Figures, short: ``"62 / 93 MB · 3 s left"``.
    """

    label: str
    done: float | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Curve:
    """A loss over optimizer steps.

    Attributes:
        train: (step, loss) of every logged step.
        held_out: (step, loss) of every evaluation.
        total_steps: Where the horizontal axis ends.
    """

    train: tuple[tuple[int, float], ...]
    held_out: tuple[tuple[int, float], ...] = ()
    total_steps: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence beneath the figures."""

    text: str
    level: NoticeLevel = "info"


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens in a row that look alike.

    Attributes:
        text: What they say.
        kind: What becomes of them; ``gap`` stands for tokens that are not shown.
        special: One special token.
    """

    text: str
    kind: RunKind
    special: bool = False


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A row of training data, token by token."""

    title: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model answered to one prompt while it was trained.

    Attributes:
        prompt: The question.
        given: (when, answer), the earliest first.
    """

    prompt: str
    given: tuple[tuple[str, str], ...]


STOPPING = Note("Stopping at the next safe point. Interrupt again to stop at once.")


@dataclass(frozen=True, slots=True)
class Card:
    """What there is to see of an operation at one moment. All texts are untrusted: each front end escapes them.

    Attributes:
        title: What it is about: ``"Training med"``.
        status: Whether it goes on, and if not, how it ended.
        bars: Progress, while it goes on.
        facts: Name and figure, the most important first.
        curve: The loss so far.
        notes: Sentences.
        details: Name and value of what few people need; folded away where that is possible.
        tokens: Rows of training data, token by token.
        answers: To sample prompts.
    """

    title: str
    status: CardStatus
    bars: tuple[Bar, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    curve: Curve | None = None
    notes: tuple[Note, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    tokens: tuple[TokenRow, ...] = ()
    answers: tuple[Answers, ...] = ()
