"""What DPO and KTO have in common: rewards that are log-likelihood ratios against the model with the adapter off."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from llmmagic.core.events import Notice, PrepareProgress
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.evaluate import answer_log_likelihoods
from llmmagic.core.training.examples import MASKED, ExampleMaker, make_examples_like_chat
from llmmagic.core.training.formats import EmptyRowError
from llmmagic.core.training.methods.base import DataRequest, Emit
from llmmagic.core.training.methods.rows import RowCount, RowData
from llmmagic.core.training.owned import OWNED
from llmmagic.core.training.sources import Table

if TYPE_CHECKING:
    import datasets

R = TypeVar("R")

_REFERENCE = "the reference is the model with the adapter off"
OWNED_BY_REFERENCE = {
    **OWNED,
    "padding_free": "TRL does not do it for this method",
    "precompute_ref_batch_size": _REFERENCE,
    "precompute_ref_log_probs": _REFERENCE,
    "ref_model_mixup_alpha": _REFERENCE,
    "ref_model_sync_steps": _REFERENCE,
    "sync_ref_model": _REFERENCE,
}
"""Keys of the preference methods' configs that cannot be set, and why."""


def understood(
    request: DataRequest, table: Table, count: RowCount, understand: Callable[[dict[str, Any], int], R]
) -> Iterator[tuple[int, R]]:
    """The rows of a table that say something.

    Args:
        request: Says where progress goes.
        table: The rows.
        count: Gets those that say nothing.
        understand: Reads a row; gets its number, counted from 1.

    Yields:
        Number and what was understood.
    """
    total = len(table.rows)
    for place in range(total):
        if place % 256 == 0:
            request.cancel.check()
            request.emit(PrepareProgress(done=place, total=total, detail=request.detail))
        try:
            yield place + 1, understand(dict(table.rows[place]), place + 1)
        except EmptyRowError as err:
            count.empty(place + 1, err)
    request.emit(PrepareProgress(done=total, total=total, detail=request.detail))


def maker_for(request: DataRequest) -> ExampleMaker:
    """Tokenises as the chat does."""
    return make_examples_like_chat(
        request.loaded.model, request.loaded.tokenizer, max_length=request.max_length, loss_on="answers"
    )


def tell_findings(data: RowData, request: DataRequest) -> None:
    """Refuse what is wrong and not allowed, and say the rest.

    Raises:
        DataFormatError: Something is wrong.
    """
    data.require_sound()
    about = "Held-out data: " if request.held_out else ""
    for found in data.findings:
        request.emit(Notice(f"{about}{found.text}", level="warning", topic=found.name))


def answers_dataset(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> datasets.Dataset:
    """Columns ``input_ids`` and ``labels``, labels on the answers."""
    import datasets

    return datasets.Dataset.from_dict(
        {
            "input_ids": [p + a for p, a in zip(prompts, answers, strict=True)],
            "labels": [[MASKED] * len(p) + a for p, a in zip(prompts, answers, strict=True)],
        }
    )


def implied_rewards(
    model: Any,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    beta: float,
    *,
    emit: Emit,
    cancel: CancelToken,
) -> list[float]:
    """The reward that a model implies for each answer (arXiv:2305.18290, equation 5, without the prompt's constant).

    ``r(x, y) = beta * log(pi(y | x) / pi_ref(y | x))``, the reference being the model with the adapter off.

    Args:
        model: A ``PeftModel`` with the adapter on.
        prompts: Ids, (T,) each.
        answers: Ids, (T,) each.
        beta: Scale.
        emit: Gets progress.
        cancel: Checked between batches.

    Returns:
        One number per answer.
    """
    dataset = answers_dataset(prompts, answers)
    ours = answer_log_likelihoods(model, dataset, emit=emit, cancel=cancel)
    with model.disable_adapter():
        reference = answer_log_likelihoods(model, dataset, emit=emit, cancel=cancel, detail="evaluate the reference")
    return [beta * (mine - theirs) for mine, theirs in zip(ours, reference, strict=True)]


def log_sigmoid(value: float) -> float:
    """``log(1 / (1 + exp(-value)))``, for any value."""
    return -math.log1p(math.exp(-value)) if value > 0 else value - math.log1p(math.exp(value))


def mean(values: Sequence[float]) -> float:
    """Of at least one value; 0.0 of none."""
    return sum(values) / max(len(values), 1)
