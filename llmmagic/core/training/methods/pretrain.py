"""Pre-training: the next token of raw text, every one of them.

Documents become ids with an end token behind each; a long one is cut into several examples, so that nothing is lost,
and short ones share a sequence without seeing each other (packing).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from llmmagic.core.errors import DataFormatError
from llmmagic.core.training.dataset import pack_sequences
from llmmagic.core.training.formats import EmptyRowError, cell_text
from llmmagic.core.training.methods.base import DataRequest, MethodData
from llmmagic.core.training.methods.preference import tell_findings, understood
from llmmagic.core.training.methods.rows import RowCount, RowData
from llmmagic.core.training.methods.sft import TokenMethod
from llmmagic.core.training.sources import DataSource, Table, read_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_ANSWER = "Remove the row, or leave such rows out (--allow empty-answer)."


class Pretrain(TokenMethod):
    """Learns raw text."""

    name = "pretrain"
    findings = ("empty-answer", "duplicates", "eval-overlap")
    shown = ("packing",)

    @override
    def defaults(self, *, full: bool, fresh: bool) -> Mapping[str, Any]:
        rate = 1e-3 if fresh else 2e-5 if full else 2e-4
        return {"learning_rate": rate, "packing": True}

    @override
    def read(self, request: DataRequest) -> MethodData:
        import datasets

        table = read_documents(request.source, request.split)
        column = _text_column(table, request.config.columns)
        count = RowCount(request.config.allow, request.known)
        tokenizer = request.loaded.tokenizer
        made: list[list[int]] = []
        for number, text in understood(request, table, count, lambda row, n: _document(row, n, column)):
            count.seen(number, text)
            ids = document_ids(tokenizer, text)
            count.keep(ids, trained=max(len(ids) - 1, 0))
            made += [piece for piece in _pieces(ids, request.max_length) if len(piece) > 1]
        dataset = datasets.Dataset.from_dict({"input_ids": made, "labels": made})
        data = count.data(dataset, table.source, "raw text", {column: "text"}, len(table.rows))
        tell_findings(data, request)
        if request.held_out or not request.args.packing:
            return data
        return _packed(data, request)


def _packed(data: RowData, request: DataRequest) -> RowData:
    packed = pack_sequences(data.dataset, request.max_length, request.args.packing_strategy)
    return replace(data, dataset=packed)


def document_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A document as ids (T,): BOS if the tokenizer adds one, the text, one end token."""
    ids: list[int] = list(tokenizer(text, verbose=False)["input_ids"])
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _pieces(ids: Sequence[int], length: int) -> Iterator[list[int]]:
    """Of at most `length` ids, each but the first beginning with the last id of the one before: all are predicted."""
    start = 0
    while start == 0 or start < len(ids) - 1:
        yield list(ids[start : start + length])
        start += max(length - 1, 1)


def read_documents(source: DataSource, split: str | None) -> Table:
    """Read raw text: a ``.txt`` file is one document, a folder of such files as many; else a table with texts.

    Raises:
        DataError: As `read_table`.
    """
    path = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if path is not None and path.is_dir():
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
    else:
        files = [path] if path is not None and path.suffix.lower() == ".txt" and path.is_file() else []
    if not files:
        return read_table(source, split=split)
    try:
        texts = [file.read_text(encoding="utf-8-sig") for file in files]
    except UnicodeDecodeError as err:
        raise DataFormatError(
            f"{path} holds text that is not UTF-8 (byte {err.start}).", hint="Save it as UTF-8."
        ) from err
    return Table(str(path), [{"text": text} for text in texts], ("text",))


def _text_column(table: Table, given: Mapping[str, str]) -> str:
    mapped = [column for column, part in given.items() if part == "text"]
    if mapped and mapped[0] in table.columns:
        return mapped[0]
    for column in table.columns:
        if column.lower() in ("text", "content", "document"):
            return column
    raise DataFormatError(
        f"{table.source} has no column of raw text: its columns are {', '.join(table.columns)}.",
        hint="Name it text, or say which one it is: --map COLUMN=text.",
    )


def _document(row: Mapping[str, Any], number: int, column: str) -> str:
    text = cell_text(row.get(column))
    if not text:
        raise EmptyRowError(f"Row {number} is empty: column {column!r} holds no text.", hint=_NO_ANSWER)
    return text
