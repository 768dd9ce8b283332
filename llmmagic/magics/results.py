"""What ``-o`` stores: values to work with, that a notebook shows as it showed them before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmmagic.core.events import (
    ChatFinished,
    DataInspected,
    FinishReason,
    GenerationStats,
    TrainEval,
    TrainFinished,
    TrainStarted,
)
from llmmagic.magics.views.card import Card
from llmmagic.magics.views.reply import ReplyCard, footer

if TYPE_CHECKING:
    from llmmagic.core.events import WindowReport

Bundle = dict[str, str]


class Reply(str):
    """The text of a reply, with its figures; it can be used wherever a string can.

    Attributes:
        finish_reason: Why it ended.
        stats: Figures: tokens, times, speed.
        window: The context window with the reply in it.
        conversation: Name of the conversation it belongs to.
        message_id: Id of the message in it.
    """

    finish_reason: FinishReason
    stats: GenerationStats
    window: WindowReport
    conversation: str
    message_id: str

    def __new__(cls, finished: ChatFinished) -> Reply:
        """Make one of the last event of a chat."""
        reply = super().__new__(cls, finished.text)
        reply.finish_reason = finished.finish_reason
        reply.stats = finished.stats
        reply.window = finished.window
        reply.conversation = finished.conversation
        reply.message_id = finished.message_id
        reply._footer = footer(finished)  # type: ignore[attr-defined]
        return reply

    @property
    def text(self) -> str:
        """The reply as a plain string."""
        return str.__str__(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        from llmmagic.magics.html import reply_html
        from llmmagic.magics.text import reply_text

        card = ReplyCard(self.text, running=False, footer=self._footer)  # type: ignore[attr-defined]
        return {"text/html": reply_html(card), "text/plain": reply_text(card)}


class _Shown:
    """Shows itself as it was shown before."""

    card: Card

    def __repr__(self) -> str:
        from llmmagic.magics.text import card_text

        return card_text(self.card)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        from llmmagic.magics.html import card_html

        return {"text/html": card_html(self.card), "text/plain": repr(self)}


@dataclass(frozen=True, repr=False)
class DataSummary(_Shown):
    """A look at training data.

    Attributes:
        inspected: Rows, format, tokens, and what is wrong.
    """

    inspected: DataInspected
    card: Card


@dataclass(frozen=True, repr=False)
class TrainSummary(_Shown):
    """A training run.

    Attributes:
        started: What was trained on, and with which settings.
        finished: How it ended; ``None`` after a dry run.
        losses: (step, loss) of every logged step.
        evals: Every evaluation; the first, at step 0, is the model before training.
        data: What became of the rows.
    """

    started: TrainStarted
    finished: TrainFinished | None
    losses: tuple[tuple[int, float], ...]
    evals: tuple[TrainEval, ...]
    card: Card
    data: DataInspected | None = None

    @property
    def adapter_dir(self) -> str | None:
        """Where the adapter is saved; ``None`` after a dry run."""
        return None if self.finished is None else self.finished.adapter_dir
