"""A look at training data before anything is trained on it: what will be seen, learnt, and left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmmagic.core.config import TrainConfig
from llmmagic.core.events import DataInspected, PrepareProgress, RowView, TokenKind, TokenPiece
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.census import check_allowed
from llmmagic.core.training.dataset import tokenize_table
from llmmagic.core.training.examples import MASKED, Example, LossOn, make_examples_like_chat
from llmmagic.core.training.formats import EmptyRowError, Layout, detect_layout
from llmmagic.core.training.options import Compute, make_sft_config
from llmmagic.core.training.recipes import RECIPES
from llmmagic.core.training.sources import DataSource, Table, read_table

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
    table = read_table(source, split=config.split)
    layout = detect_layout(table, config.columns)
    data = tokenize_table(table, layout, maker, allow=config.allow, emit=emit, cancel=cancel)
    census = data.census
    whole = make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=_WHOLE, loss_on=loss_on)
    shown = [
        RowView(example.row, _pieces(example, limit, loaded.tokenizer))
        for row, number in _first_rows(table, layout, views)
        for example in whole.make(layout.sample(row, number))
    ]
    return DataInspected(
        report=data.report,
        findings=data.findings,
        views=tuple(shown),
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
