"""A look at training data before anything is trained on it: what will be seen, learnt, and left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmmagic.core.config import TrainConfig
from llmmagic.core.events import DataInspected, PrepareProgress, RowView, TokenKind, TokenPiece
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.census import check_allowed
from llmmagic.core.training.examples import MASKED, Example, LossOn, make_examples_like_chat
from llmmagic.core.training.formats import EmptyRowError, Layout
from llmmagic.core.training.options import Compute, make_sft_config
from llmmagic.core.training.prepared import Prepared, TokenizedCache, prepare_rows
from llmmagic.core.training.recipes import RECIPES
from llmmagic.core.training.sources import DataSource, Table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from llmmagic.core.models.loaded import LoadedModel

_WHOLE = 1 << 40  # a length that nothing reaches: what is cut off is to be seen too


def inspect_data(
    loaded: LoadedModel,
    source: DataSource,
    config: TrainConfig,
    *,
    views: int = 3,
    cache: TokenizedCache | None = None,
    emit: Callable[[PrepareProgress], None],
    cancel: CancelToken,
) -> DataInspected:
    """Read, understand and tokenise data as training would, and say what comes out.

    Nothing is refused here but what cannot be read at all: errors are findings.

    Args:
        loaded: The model whose tokenizer and template are used.
        source: The rows.
        config: Columns, recipe and settings: ``max_length`` and ``completion_only_loss`` matter.
        views: How many rows to show token by token.
        cache: Where tokenised rows are kept for the training that follows.
        emit: Gets progress.
        cancel: Checked between chunks of rows.

    Returns:
        The report.

    Raises:
        DataError: Data that cannot be read, or of no known format.
        ConfigError: A setting or a name of a finding that does not exist.
        CancelledOperation: It was cancelled.
    """
    check_allowed(config.allow)
    args = make_sft_config(
        config.options, RECIPES[config.recipe].options, Compute(loaded.info.device, loaded.info.dtype)
    )
    loss_on: LossOn = "all" if args.completion_only_loss is False else "answers"
    limit = min(args.max_length or loaded.info.context_window, loaded.info.context_window)
    maker = make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=limit, loss_on=loss_on)
    prepared = prepare_rows(
        source,
        maker,
        split=config.split,
        columns=config.columns,
        allow=config.allow,
        cache=cache,
        emit=emit,
        cancel=cancel,
    )
    return report_on(loaded, prepared, max_length=limit, loss_on=loss_on, views=views)


def report_on(
    loaded: LoadedModel, prepared: Prepared, *, max_length: int, loss_on: LossOn, views: int = 0
) -> DataInspected:
    """Say what became of rows.

    Args:
        loaded: The model whose tokenizer and template were used.
        prepared: The rows, tokenised.
        max_length: Where they were cut off.
        loss_on: What the loss is taken on.
        views: How many rows to show token by token.

    Returns:
        The report.
    """
    data, census = prepared.data, prepared.data.census
    whole = make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=_WHOLE, loss_on=loss_on)
    shown = [
        RowView(example.row, _pieces(example, max_length, loaded.tokenizer))
        for row, number in _first_rows(prepared.table, prepared.layout, views)
        for example in whole.make(prepared.layout.sample(row, number))
    ]
    return DataInspected(
        report=data.report,
        findings=data.findings,
        views=tuple(shown),
        rows=len(prepared.table.rows),
        max_length=max_length,
        examples=census.examples,
        masked_tokens=census.total_tokens - census.trained_tokens,
        cut_tokens=census.cut_tokens,
        end_labelled=census.end_labelled,
        most_bos=census.most_bos,
        duplicate_rows=len(census.rows("duplicates")),
        empty_rows=len(census.rows("empty-answer")),
        longest_rows=census.longest_rows,
        checked_prompts=census.checked_prompts,
        identical_prompts=census.identical_prompts,
    )


def _first_rows(table: Table, layout: Layout, count: int) -> list[tuple[dict[str, object], int]]:
    """The first rows that are not empty, with their numbers."""
    found: list[tuple[dict[str, object], int]] = []
    for place in range(len(table.rows)):
        if len(found) == count:
            break
        row = dict(table.rows[place])
        try:
            layout.sample(row, place + 1)
        except EmptyRowError:
            continue
        found.append((row, place + 1))
    return found


def _pieces(example: Example, limit: int, tokenizer: PreTrainedTokenizerBase) -> tuple[TokenPiece, ...]:
    special = set(tokenizer.all_special_ids)
    pieces: list[TokenPiece] = []
    waiting: list[int] = []  # tokens that make up one character together
    for place, (token, label) in enumerate(zip(example.input_ids, example.labels, strict=True)):
        waiting.append(token)
        text = str(tokenizer.decode(waiting))
        complete = not text.endswith("\ufffd") or place + 1 == len(example.input_ids)
        kind: TokenKind = "cut" if place >= limit else "masked" if label == MASKED else "trained"
        pieces.append(TokenPiece(text if complete else "", kind, special=token in special))
        if complete:
            waiting.clear()
    return tuple(pieces)
