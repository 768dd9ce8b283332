"""A source becomes the data set that the trainer reads: tokens and labels, and a report of what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import DataFormatError
from llmmagic.core.events import DataReport, Finding, PrepareProgress
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.census import Census
from llmmagic.core.training.examples import ExampleMaker
from llmmagic.core.training.formats import EmptyRowError, Layout
from llmmagic.core.training.sources import Table, no_bars

if TYPE_CHECKING:
    import datasets

_CHUNK_ROWS = 256


@dataclass(frozen=True, slots=True)
class TokenizedData:
    """Examples, ready to train on.

    Attributes:
        dataset: Columns ``input_ids`` and ``labels``, one row per example.
        report: What they are.
        census: What is known about them.
        findings: What is wrong with them, errors first.
    """

    dataset: datasets.Dataset
    report: DataReport
    census: Census
    findings: tuple[Finding, ...]

    @property
    def digest(self) -> str:
        """Of all ids and labels, in order."""
        return self.census.digest

    @property
    def fingerprints(self) -> frozenset[int]:
        """Of all rows, to find them in other data."""
        return self.census.fingerprints

    def require_sound(self) -> None:
        """Refuse to train on data with errors that are not allowed.

        Raises:
            DataFormatError: The first of them, with how to go on all the same.
        """
        for finding in self.findings:
            if finding.level == "warning" or finding.allowed:
                continue
            if self.census.first_error is not None and finding.name == "empty-answer":
                raise self.census.first_error
            where = f" Row {finding.rows[0]} is the first." if finding.rows else ""
            remedy = "Set a higher max_length" if finding.name == "no-end-label" else "Correct the data"
            raise DataFormatError(
                f"{finding.text}{where}", hint=f"{remedy}, or go on all the same: --allow {finding.name}."
            )


def pack(data: TokenizedData, length: int, strategy: str) -> TokenizedData:
    """Put several examples into one sequence, so that little is padding.

    The trainer restarts the positions of each, and the attention of one never reaches another.

    Args:
        data: What `tokenize_table` gave.
        length: Most tokens of a sequence.
        strategy: ``bfd``: best fit decreasing (arXiv:2404.10830), no example is cut; ``bfd_split``: the same, too long
            ones are cut into several.

    Returns:
        The data with a ``seq_lengths`` column: the lengths of the examples in each sequence.
    """
    return replace(data, dataset=pack_sequences(data.dataset, length, strategy))


def pack_sequences(dataset: datasets.Dataset, length: int, strategy: str) -> datasets.Dataset:
    """The rows of `pack`, without what is known about them."""
    from trl.data_utils import pack_dataset

    with no_bars():
        return pack_dataset(dataset, length, strategy)


def tokenize_table(
    table: Table,
    layout: Layout,
    maker: ExampleMaker,
    *,
    allow: Sequence[str] = (),
    known: frozenset[int] = frozenset(),
    emit: Callable[[PrepareProgress], None],
    cancel: CancelToken,
    detail: str = "tokenize",
) -> TokenizedData:
    """Understand and tokenise all rows.

    Args:
        table: The rows.
        layout: How to read them.
        maker: Tokenises.
        allow: Names of findings that the user knows of.
        known: Fingerprints of the training data, if this is held-out data.
        emit: Gets progress.
        cancel: Checked between chunks of rows.
        detail: What the progress is called.

    Returns:
        The data set, its report and what is wrong with it. Rows without anything to learn from are left out.

    Raises:
        DataFormatError: A row that cannot be used (the message says which), or nothing to learn in all of them.
        CancelledOperation: It was cancelled.
    """
    import datasets
    import pyarrow as pa

    census = Census(maker)
    schema = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
    batches = []
    for start, chunk in _chunks(table):
        cancel.check()
        examples = []
        for number, row in enumerate(chunk, start=start + 1):
            try:
                sample = layout.sample(row, number)
            except EmptyRowError as err:
                census.add_empty(number, err)
                continue
            made = maker.make(sample)
            census.add(sample, made, known)
            examples += made
        # Arrow holds 4 bytes a token; lists of Python integers would hold 8 and the objects.
        columns = {"input_ids": [e.input_ids for e in examples], "labels": [e.labels for e in examples]}
        batches.append(pa.RecordBatch.from_pydict(columns, schema=schema))
        emit(PrepareProgress(done=start + len(chunk), total=len(table.rows), detail=detail))
    if not census.trained_tokens:
        if census.first_error is not None:
            raise census.first_error
        raise DataFormatError(
            f"Nothing is left to learn from in {table.source}: max_length cuts off every answer.",
            hint="Set a higher max_length.",
        )
    report = DataReport(
        source=table.source,
        rows=len(table.rows) - len(census.rows("empty-answer")) - len(census.rows("all-masked")),
        format=layout.format,
        columns=dict(layout.columns),
        longest_tokens=census.longest_tokens,
        total_tokens=census.total_tokens,
        truncated_rows=len(census.rows("truncated")),
        trained_tokens=census.trained_tokens,
    )
    dataset = datasets.Dataset(pa.Table.from_batches(batches, schema))
    return TokenizedData(dataset, report, census, census.findings(len(table.rows), allow))


def _chunks(table: Table) -> Iterator[tuple[int, list[Any]]]:
    for start in range(0, len(table.rows), _CHUNK_ROWS):
        stop = min(start + _CHUNK_ROWS, len(table.rows))
        yield start, [table.rows[place] for place in range(start, stop)]
