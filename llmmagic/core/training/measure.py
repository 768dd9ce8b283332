"""What a model makes of rows that it was not trained on: with the adapter that is on, and without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from llmmagic.core.events import EvalEvent, EvalFinished, Notice
from llmmagic.core.models.adapters import use_adapter
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.dataset import tokenize_table
from llmmagic.core.training.evaluate import held_out_loss
from llmmagic.core.training.examples import make_examples_like_chat
from llmmagic.core.training.formats import detect_layout
from llmmagic.core.training.sources import DataSource, Table, read_table

if TYPE_CHECKING:
    import datasets

    from llmmagic.core.models.loaded import LoadedModel


def evaluate(
    loaded: LoadedModel,
    source: DataSource,
    *,
    limit: int | None = None,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    compare: bool = True,
    emit: Callable[[EvalEvent], None],
    cancel: CancelToken,
) -> EvalFinished:
    """Take loss, perplexity and token accuracy, on the answers only; on all tokens of raw text.

    Args:
        loaded: The session's model; has the same adapter on when this returns.
        source: The rows.
        limit: Only so many of them, from the beginning.
        split: Of the source.
        columns: What columns mean.
        compare: Measure the bare model, too, if an adapter is on.
        emit: Gets `Notice` and `PrepareProgress`.
        cancel: Checked between batches.

    Returns:
        The figures.

    Raises:
        DataError: Data that cannot be read, or rows that cannot be used.
        CancelledOperation: It was cancelled.
    """
    maker = make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=loaded.info.context_window)
    table = read_table(source, split=split)
    if limit is not None:
        table = Table(table.source, [table.rows[place] for place in range(min(limit, len(table.rows)))], table.columns)
    data = tokenize_table(table, detect_layout(table, columns), maker, emit=emit, cancel=cancel)
    data.require_sound()
    for finding in data.findings:
        emit(Notice(finding.text, level="warning", topic=finding.name))
    adapter = loaded.info.adapter
    base = None
    if adapter is not None and compare:
        try:
            use_adapter(loaded, None)
            base = _figures(loaded, data.dataset, "evaluate the base", emit, cancel)
        finally:
            use_adapter(loaded, adapter)
    figures = _figures(loaded, data.dataset, f"evaluate {adapter}" if adapter else "evaluate", emit, cancel)
    return EvalFinished(**{**asdict(figures), "base": base})


def _figures(
    loaded: LoadedModel,
    dataset: datasets.Dataset,
    detail: str,
    emit: Callable[[EvalEvent], None],
    cancel: CancelToken,
) -> EvalFinished:
    found = held_out_loss(loaded.model, dataset, emit=emit, cancel=cancel, detail=detail)
    return EvalFinished(**asdict(found), adapter=loaded.info.adapter)
