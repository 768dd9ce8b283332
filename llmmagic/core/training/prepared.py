"""From a source to tokenised rows, once: what was inspected is not tokenised again when it is trained on."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmmagic.core.events import PrepareProgress
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.dataset import TokenizedData, tokenize_table
from llmmagic.core.training.examples import ExampleMaker
from llmmagic.core.training.formats import Layout, detect_layout
from llmmagic.core.training.sources import DataSource, Table, read_table

_MOST_ENTRIES = 4  # training and held-out rows, with two settings each
_MOST_BYTES = 512 * 1024**2
_BYTES_PER_TOKEN = 8  # an id and a label of 4 bytes each


@dataclass(frozen=True, slots=True)
class Prepared:
    """A source that was read, understood and tokenised.

    Attributes:
        table: Its rows.
        layout: How they were read.
        data: What became of them.
        reused: Whether they had been tokenised before.
    """

    table: Table
    layout: Layout
    data: TokenizedData
    reused: bool


class TokenizedCache:
    """What was tokenised lately, by the content of the rows and by everything that decides what they become."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, TokenizedData] = OrderedDict()

    def get(self, key: Hashable) -> TokenizedData | None:
        """What was kept under a key, if it still is."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: Hashable, data: TokenizedData) -> None:
        """Keep data, and let go of what was not used for longest if that becomes too much."""
        self._entries[key] = data
        while len(self._entries) > _MOST_ENTRIES or (self._bytes() > _MOST_BYTES and self._entries):
            self._entries.popitem(last=False)

    def clear(self) -> None:
        """Let go of everything."""
        self._entries.clear()

    def _bytes(self) -> int:
        return sum(data.report.total_tokens * _BYTES_PER_TOKEN for data in self._entries.values())


def prepare_rows(
    source: DataSource,
    maker: ExampleMaker,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    allow: Sequence[str] = (),
    known: frozenset[int] = frozenset(),
    cache: TokenizedCache | None = None,
    emit: Callable[[PrepareProgress], None],
    cancel: CancelToken,
    detail: str = "tokenize",
) -> Prepared:
    """Read, understand and tokenise a source.

    Args:
        source: What the user gave.
        maker: Tokenises.
        split: See `read_table`.
        columns: See `detect_layout`.
        allow: Names of findings that the user knows of.
        known: Fingerprints of the training data, if this is held-out data.
        cache: Where to look first, and where to leave the result.
        emit: Gets progress.
        cancel: Checked between chunks of rows.
        detail: What the progress is called.

    Returns:
        The rows and what became of them.

    Raises:
        DataError: Data that cannot be read, or rows that cannot be used.
        ConfigError: Columns that there are not.
        CancelledOperation: It was cancelled.
    """
    table = read_table(source, split=split)
    layout = detect_layout(table, columns)
    content = None if cache is None else content_of(table)
    key = None
    if cache is not None and content is not None:
        key = (table.source, content, layout.format, tuple(layout.columns.items()), maker.identity, known)
        found = cache.get(key)
        if found is not None:
            findings = found.census.findings(len(table.rows), allow)
            return Prepared(table, layout, replace(found, findings=findings), reused=True)
    data = tokenize_table(table, layout, maker, allow=allow, known=known, emit=emit, cancel=cancel, detail=detail)
    if cache is not None and key is not None:
        cache.put(key, data)
    return Prepared(table, layout, data, reused=False)


def content_of(table: Table) -> str | None:
    """A digest of all cells: a file that was written anew or a list that was changed has another one.

    Args:
        table: The rows.

    Returns:
        The digest; ``None`` if a cell holds something that cannot be written down.
    """
    fingerprint: Any = getattr(table.rows, "_fingerprint", None)
    if fingerprint is not None:  # a `datasets.Dataset` keeps one of its own
        return str(fingerprint)
    digest = hashlib.blake2b(digest_size=16)
    try:
        for row in table.rows:
            digest.update(pickle.dumps(row))
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        return None
    return digest.hexdigest()
