"""The loss on held-out rows, exactly: per token, not per batch.

``Trainer.evaluate`` takes the mean over batches, so that its figure depends on how rows were grouped and a short answer
weighs as much as a long one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from llmmagic.core.events import PrepareProgress
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.examples import MASKED

if TYPE_CHECKING:
    import datasets

_LOGITS_BYTES = 256 * 1024**2
_MAX_ROWS = 16


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a model makes of held-out rows.

    Attributes:
        loss: Mean negative log-likelihood per trained token, in nats.
        perplexity: ``exp(loss)``.
        token_accuracy: Share of trained tokens that are the model's first choice.
        tokens: How many tokens that is over.
        rows: How many rows.
    """

    loss: float
    perplexity: float
    token_accuracy: float
    tokens: int
    rows: int


def held_out_loss(
    model: Any,
    dataset: datasets.Dataset,
    *,
    emit: Callable[[PrepareProgress], None],
    cancel: CancelToken,
    detail: str = "evaluate",
) -> HeldOut:
    """Run a model over examples.

    Args:
        model: A causal language model; is left in evaluation mode.
        dataset: Columns ``input_ids`` and ``labels``.
        emit: Gets progress, in rows.
        cancel: Checked between batches.
        detail: What the progress is called.

    Returns:
        The figures.

    Raises:
        CancelledOperation: It was cancelled.
    """
    model.eval()
    device = model.get_input_embeddings().weight.device
    vocab_size = int(model.config.get_text_config().vocab_size)
    nll, correct, tokens, done = 0.0, 0, 0, 0
    for batch in _batches(dataset, vocab_size):
        cancel.check()
        input_ids, labels, mask = (tensor.to(device) for tensor in _pad(dataset, batch))
        with torch.no_grad():
            logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        targets = labels[:, 1:]  # (B, T - 1): position t predicts token t + 1
        trained = targets != MASKED
        scores = logits[:, :-1][trained].float()  # (N, V)
        wanted = targets[trained]
        nll += torch.nn.functional.cross_entropy(scores, wanted, reduction="sum").item()
        correct += int((scores.argmax(-1) == wanted).sum())
        tokens += int(trained.sum())
        done += len(batch)
        emit(PrepareProgress(done=done, total=len(dataset), detail=detail))
    loss = nll / max(tokens, 1)
    return HeldOut(loss, _exp(loss), correct / max(tokens, 1), tokens, len(dataset))


def answer_log_likelihoods(
    model: Any,
    dataset: datasets.Dataset,
    *,
    emit: Callable[[PrepareProgress], None],
    cancel: CancelToken,
    detail: str = "evaluate",
) -> list[float]:
    """How likely a model finds each answer.

    Args:
        model: A causal language model; is left in evaluation mode.
        dataset: Columns ``input_ids`` and ``labels``.
        emit: Gets progress, in rows.
        cancel: Checked between batches.
        detail: What the progress is called.

    Returns:
        The log-likelihood of each row's labelled tokens together, in nats, in the order of the rows.

    Raises:
        CancelledOperation: It was cancelled.
    """
    model.eval()
    device = model.get_input_embeddings().weight.device
    found, done = [0.0] * len(dataset), 0
    for batch in _batches(dataset, int(model.config.get_text_config().vocab_size)):
        cancel.check()
        input_ids, labels, mask = (tensor.to(device) for tensor in _pad(dataset, batch))
        with torch.no_grad():
            logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        targets = labels[:, 1:]  # (B, T - 1)
        nll = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), targets, ignore_index=MASKED, reduction="none"
        )
        for place, value in zip(batch, nll.sum(1).tolist(), strict=True):
            found[place] = -value
        done += len(batch)
        emit(PrepareProgress(done=done, total=len(dataset), detail=detail))
    return found


def _exp(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def _batches(dataset: datasets.Dataset, vocab_size: int) -> Iterator[list[int]]:
    """Row numbers, longest rows first, as many at once as the logits leave room for."""
    import pyarrow.compute as pc

    sizes: list[int] = pc.list_value_length(dataset.data.column("input_ids")).to_pylist()
    order = sorted(range(len(sizes)), key=lambda place: -sizes[place])
    while order:
        rows = max(1, min(_MAX_ROWS, _LOGITS_BYTES // (sizes[order[0]] * vocab_size * 4)))
        batch, order = order[:rows], order[rows:]
        yield batch


def _pad(dataset: datasets.Dataset, batch: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and attention mask of some rows, padded on the right: (B, T) each."""
    rows = [dataset[place] for place in batch]
    width = max(len(row["input_ids"]) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), MASKED, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):
        size = len(row["input_ids"])
        input_ids[place, :size] = torch.tensor(row["input_ids"])
        labels[place, :size] = torch.tensor(row["labels"])
        mask[place, :size] = 1
    return input_ids, labels, mask
