from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmmagic.core.errors import ConfigError, DataFormatError, DataNotFoundError, NetworkError
from llmmagic.core.training.sources import read_table

ROWS = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(10)]


def write(path: Path) -> Path:
    """The same ten rows in the format of the suffix."""
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif path.suffix == ".csv":
        path.write_text(
            "question,answer\n" + "".join(f"{r['question']},{r['answer']}\n" for r in ROWS), encoding="utf-8"
        )
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_file_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    table = read_table(str(write(tmp_path / f"rows{suffix}")))
    assert list(table.rows) == ROWS
    assert table.columns == ("question", "answer")


def test_a_text_file_is_one_row_per_line_without_the_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    path.write_text("first\n\nsecond\n", encoding="utf-8")
    assert list(read_table(path).rows) == [{"text": "first"}, {"text": "second"}]


def test_objects_are_read_like_files() -> None:
    import datasets
    import pandas as pd

    assert list(read_table(ROWS).rows) == ROWS
    assert list(read_table(["one", "two"]).rows) == [{"text": "one"}, {"text": "two"}]
    assert list(read_table(pd.DataFrame(ROWS)).rows) == ROWS
    dataset = datasets.Dataset.from_list(ROWS)
    assert list(read_table(dataset).rows) == ROWS
    assert list(read_table(datasets.DatasetDict(train=dataset, test=dataset.select([3])), split="test").rows) == [
        ROWS[3]
    ]


def test_missing_cells_of_a_dataframe_are_none() -> None:
    import pandas as pd

    frame = pd.DataFrame({"question": ["a", "b"], "answer": ["x", None], "score": [1.0, float("nan")]})
    assert read_table(frame).rows[1] == {"question": "b", "answer": None, "score": None}


def test_a_saved_dataset_folder_is_read(tmp_path: Path) -> None:
    import datasets

    datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)).save_to_disk(tmp_path / "saved")
    assert list(read_table(tmp_path / "saved").rows) == ROWS


@pytest.mark.parametrize(
    ("split", "expected"),
    [("train[:3]", ROWS[:3]), ("[2:4]", ROWS[2:4]), ("[:20%]", ROWS[:2]), ("train", ROWS), ("[8:100]", ROWS[8:])],
)
def test_rows_can_be_sliced_by_the_split(split: str, expected: list[dict[str, str]]) -> None:
    assert list(read_table(ROWS, split=split).rows) == expected


def test_a_file_name_can_end_in_a_slice(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl")
    assert list(read_table(f"{path}[:2]").rows) == ROWS[:2]


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "medical.jsonl")
    with pytest.raises(DataNotFoundError, match=r"medicla\.jsonl.*Did you mean .*medical\.jsonl"):
        read_table(str(tmp_path / "medicla.jsonl"))


def test_an_unreadable_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n\n{"question": "a", \n', encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"Line 3 of rows\.jsonl is no valid JSON"):
        read_table(path)
    path.write_text('{"question": "a"}\n[1, 2]\n', encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"Line 2 of rows\.jsonl is a list, not a row"):
        read_table(path)


def test_a_csv_row_with_too_many_fields_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\na,b\na,b, and c\n", encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"Line 3 of rows\.csv has more fields"):
        read_table(path)


@pytest.mark.parametrize(
    ("name", "content"), [("rows.jsonl", b"\n"), ("rows.json", b"[]"), ("rows.csv", b"question,answer\n")]
)
def test_no_rows_are_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataFormatError, match="has no rows"):
        read_table(tmp_path / name)


def test_other_bad_sources_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"question": "\xff"}\n')
    with pytest.raises(DataFormatError, match="not UTF-8"):
        read_table(tmp_path / "rows.jsonl")
    (tmp_path / "rows.xlsx").write_bytes(b"x")
    with pytest.raises(DataFormatError, match=r"Known are \.jsonl"):
        read_table(tmp_path / "rows.xlsx")
    (tmp_path / "rows.parquet").write_bytes(b"x")
    with pytest.raises(DataFormatError, match="no valid Parquet"):
        read_table(tmp_path / "rows.parquet")
    with pytest.raises(DataFormatError, match="cannot be read from a int"):
        read_table(3)  # type: ignore[arg-type]
    with pytest.raises(DataFormatError, match="dict is no table"):
        read_table({"question": []})  # type: ignore[arg-type]
    with pytest.raises(DataNotFoundError, match="no split 'tset'"):
        read_table(ROWS, split="tset")
    with pytest.raises(ConfigError, match="is no split"):
        read_table(ROWS, split="train[a:b]")


def test_the_hub_offline_is_a_network_error() -> None:
    with pytest.raises(NetworkError, match="the Hub cannot be reached"):
        read_table("aboonaji/wiki_medical_terms_llam2_format")
