"""Where training data comes from: a name or an object becomes a table of rows.

A table knows nothing of formats; what its columns mean is decided in `llmmagic.core.training.formats`.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from llmmagic.core.errors import ConfigError, DataFormatError, DataNotFoundError, NetworkError, did_you_mean
from llmmagic.core.models.hub import hub_answers

if TYPE_CHECKING:
    import datasets
    import pandas

DataSource: TypeAlias = Union[
    str,
    Path,
    Sequence[Mapping[str, Any]],
    Sequence[str],
    "datasets.Dataset",
    "datasets.DatasetDict",
    "pandas.DataFrame",
]
"""A Hub id, a file or folder, a list of dicts or texts, a ``datasets.Dataset`` or a pandas ``DataFrame``.

A name may end in a slice: ``rows.jsonl[:100]``, ``org/name[:10%]``.
"""

Rows: TypeAlias = Sequence[Mapping[str, Any]]

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
_SLICE = re.compile(r"^(?P<name>.*)\[(?P<start>\d+%?)?:(?P<stop>\d+%?)?\]$", re.DOTALL)
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?(@[\w./-]+)?$")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows and where they are from.

    Attributes:
        source: For people: the path, the Hub id, or what kind of object was given.
        rows: At least one; every row is a mapping from column to value.
        columns: In the order of their first appearance.
    """

    source: str
    rows: Rows
    columns: tuple[str, ...]


def read_table(source: DataSource, *, split: str | None = None) -> Table:
    """Read training or evaluation data.

    Args:
        source: What the user gave.
        split: A split of a Hub data set or `DatasetDict`, with or without a slice: ``train``, ``train[:1000]``,
            ``[:10%]``. Files and lists have only rows to slice. ``None`` is ``train``.

    Returns:
        The rows.

    Raises:
        DataNotFoundError: No such file, data set or split.
        DataFormatError: A file that cannot be read (the message says which line), no rows, or an object that holds
            none.
        NetworkError: The Hub cannot be reached.
        ConfigError: A split that is not written like one.
    """
    if isinstance(source, (str, Path)):
        name, cut = _split_slice(str(source)) if not Path(str(source)).exists() else (str(source), None)
        table = _read_named(name, split)
    else:
        cut = None
        table = _read_object(source, split)
    _, split_cut = _split_slice(split or "")
    rows = table.rows
    for piece in (split_cut, cut):
        rows = _take(rows, piece) if piece else rows
    if not len(rows):
        raise DataFormatError(f"{table.source} has no rows.", hint="Give at least one row to train on.")
    return Table(table.source, rows, table.columns or _columns(rows))


def _read_named(name: str, split: str | None) -> Table:
    path = Path(name).expanduser()
    if path.is_dir():
        return _saved_dataset(path, split)
    if path.is_file():
        _refuse_split_name(split, f"The file {path.name}")
        return _read_file(path)
    looks_like_file = path.suffix.lower() in SUFFIXES or name.startswith((".", "/", "~")) or "\\" in name
    if looks_like_file or not _HUB_ID.match(name):
        raise DataNotFoundError(f"There is no file {name!r}.", hint=_nearest_file(path))
    return _from_hub(name, split)


def _read_object(source: Any, split: str | None) -> Table:
    # Known by what they can do, so that neither pandas nor datasets is imported for a list.
    if isinstance(source, Mapping) and not hasattr(source, "column_names"):
        raise DataFormatError(
            f"A {type(source).__name__} is no table of rows.", hint="Give a list of rows, a DataFrame or a Dataset."
        )
    if hasattr(source, "to_dict") and hasattr(source, "columns") and hasattr(source, "notna"):
        _refuse_split_name(split, "A DataFrame")
        # Missing cells (NaN, NaT, pd.NA) become None, whatever the column's type.
        clean = source.astype(object).where(source.notna(), None)
        return Table("a DataFrame", clean.to_dict("records"), tuple(str(column) for column in source.columns))
    if hasattr(source, "column_names"):
        return _from_dataset(source, split, "a Dataset")
    if isinstance(source, Sequence) and not isinstance(source, bytes):
        _refuse_split_name(split, "A list")
        return Table("a list", _dict_rows(list(source), "The list"), ())
    raise DataFormatError(
        f"Training data cannot be read from a {type(source).__name__}.",
        hint="Give a Hub id, a file, a list of dicts or texts, a DataFrame or a Dataset.",
    )


# --- files -------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> Table:
    readers: dict[str, Callable[[Path], Rows]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".txt": _read_txt,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataFormatError(f"{path.name} is no data file llmmagic knows.", hint=f"Known are {', '.join(SUFFIXES)}.")
    try:
        return Table(str(path), reader(path), ())
    except UnicodeDecodeError as err:
        raise DataFormatError(f"{path.name} is not UTF-8 text (byte {err.start}).", hint="Save it as UTF-8.") from err
    except OSError as err:
        raise DataNotFoundError(f"{path} cannot be read: {err.strerror or err}.") from err


def _read_jsonl(path: Path) -> Rows:
    rows: list[Mapping[str, Any]] = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as err:
                raise DataFormatError(f"Line {number} of {path.name} is no valid JSON: {err}.") from err
            rows.extend(_dict_rows([row], f"Line {number} of {path.name}"))
    return rows


def _read_json(path: Path) -> Rows:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as err:
        if isinstance(err, UnicodeDecodeError):
            raise
        hint = "One row per line is JSON Lines: name the file .jsonl." if "Extra data" in str(err) else ""
        raise DataFormatError(f"{path.name} is no valid JSON: {err}.", hint=hint) from err
    if isinstance(content, dict):
        # {"data": [...]}: one list of rows under some name, as many tools export it.
        lists = [value for value in content.values() if isinstance(value, list)]
        content = lists[0] if len(lists) == 1 else content
    if not isinstance(content, list):
        raise DataFormatError(f"{path.name} holds no list of rows.", hint="Write [{...}, {...}], or one row per line.")
    return _dict_rows(content, path.name)


def _read_csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restkey="", strict=True)
        rows: list[Mapping[str, Any]] = []
        try:
            for row in reader:
                if "" in row:
                    raise DataFormatError(
                        f"Line {reader.line_num} of {path.name} has more fields than the header.",
                        hint='Put fields that contain commas in double quotes: "a, b".',
                    )
                rows.append(row)
        except csv.Error as err:
            raise DataFormatError(f"Line {reader.line_num} of {path.name} is no valid CSV: {err}.") from err
    return rows


def _read_parquet(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: Rows = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as err:
        raise DataFormatError(f"{path.name} is no valid Parquet file: {err}.") from err
    return rows


def _read_txt(path: Path) -> Rows:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [{"text": line.rstrip("\r")} for line in lines if line.strip()]


def _dict_rows(items: list[Any], place: str) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for number, item in enumerate(items, start=1):
        if isinstance(item, str):
            rows.append({"text": item})
        elif isinstance(item, Mapping):
            rows.append(item)
        else:
            where = place if len(items) == 1 else f"Row {number} of {place}"
            raise DataFormatError(f"{where} is a {type(item).__name__}, not a row.", hint='A row is {"column": value}.')
    return rows


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"There is no folder {str(folder)!r} either."
    names = [entry.name for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {str(folder / near[0])!r}?"
    return f"Data files there: {', '.join(sorted(names)[:5])}." if names else ""


# --- datasets and the Hub ----------------------------------------------------------------------------------------


def _from_hub(name: str, split: str | None) -> Table:
    import datasets

    hub_id, _, revision = name.partition("@")
    split_name, _ = _split_slice(split or "")
    # The library would try again for half a minute, and say so each time.
    known = Path(datasets.config.HF_DATASETS_CACHE) / hub_id.replace("/", "___")
    if not known.is_dir() and not hub_answers(hub_id):
        raise _no_hub(hub_id)
    try:
        with no_bars():
            data = datasets.load_dataset(hub_id, split=split_name or "train", revision=revision or None)
    except datasets.exceptions.DatasetNotFoundError as err:
        raise DataNotFoundError(
            f"There is no data set {hub_id!r} on the Hub, and no such file.",
            hint="Check the name; a private one needs a login (huggingface-cli login).",
        ) from err
    except ConnectionError as err:
        raise _no_hub(hub_id) from err
    except (ValueError, FileNotFoundError, RuntimeError) as err:  # unknown split, no data files, a loading script
        raise DataNotFoundError(f"The data set {hub_id!r} cannot be read: {err}.") from err
    return _from_dataset(data, None, name)


def _no_hub(hub_id: str) -> NetworkError:
    text = f"The data set {hub_id!r} cannot be fetched: the Hub cannot be reached."
    return NetworkError(text, hint="Check the connection, or give a local file.")


def _saved_dataset(path: Path, split: str | None) -> Table:
    import datasets

    try:
        return _from_dataset(datasets.load_from_disk(str(path)), split, str(path))
    except FileNotFoundError as err:
        raise DataNotFoundError(
            f"The folder {path} holds no saved data set.",
            hint="Give one of its files, or a Dataset.save_to_disk folder.",
        ) from err


def _from_dataset(data: Any, split: str | None, source: str) -> Table:
    if isinstance(data, Mapping):  # a DatasetDict
        name = _split_slice(split or "")[0] or "train"
        if name not in data:
            hint = did_you_mean(name, data) or f"Splits: {', '.join(data)}."
            raise DataNotFoundError(f"{source} has no split {name!r}.", hint=hint)
        return Table(source, data[name], tuple(data[name].column_names))
    _refuse_split_name(split, source[0].upper() + source[1:])
    if not hasattr(data, "__len__"):
        raise DataFormatError(
            f"{source} is a stream.", hint="Take as many rows as are needed: list(dataset.take(1000))."
        )
    return Table(source, data, tuple(data.column_names))


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep the bars of ``datasets`` off the screen: what is going on is said by events."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()


# --- slices ------------------------------------------------------------------------------------------------------


def _split_slice(text: str) -> tuple[str, tuple[str, str] | None]:
    """``"train[:10%]"`` -> ``("train", ("", "10%"))``."""
    found = _SLICE.match(text)
    if not found:
        if text.endswith("]") or ("[" in text and "/" not in text):
            raise ConfigError(f"{text!r} is no split.", hint="A slice is written like train[:1000] or train[10%:20%].")
        return text, None
    return found["name"], (found["start"] or "", found["stop"] or "")


def _refuse_split_name(split: str | None, what: str) -> None:
    name, _ = _split_slice(split or "")
    if name not in ("", "train"):
        raise DataNotFoundError(f"{what} has no split {name!r}.", hint="Rows can be sliced: --split [:1000].")


def _take(rows: Rows, piece: tuple[str, str]) -> Rows:
    def place(text: str, default: int) -> int:
        if not text:
            return default
        if text.endswith("%"):
            return round(len(rows) * min(int(text[:-1]), 100) / 100)
        return min(int(text), len(rows))

    start, stop = place(piece[0], 0), place(piece[1], len(rows))
    if hasattr(rows, "select"):  # a Dataset: slicing it would give columns
        selected: Rows = rows.select(range(start, max(start, stop)))
        return selected
    return rows[start:stop]


def _columns(rows: Rows) -> tuple[str, ...]:
    seen: dict[str, None] = {}
    for row in rows:
        seen.update(dict.fromkeys(row))
    return tuple(seen)
