"""What ``--data`` names, and how options and bodies are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.errors import ConfigError, DataNotFoundError
from llmmagic.magics.body import parse_body
from llmmagic.magics.sources import resolve_source

ROWS = [{"question": "a", "answer": "b"}]


def test_variables_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows").mkdir()
    source, note = resolve_source("rows", {"rows": ROWS})
    assert source == ROWS
    assert note is not None
    assert note.text == "The variable rows is used, not the file of that name (./rows)."
    source, note = resolve_source("rows", {"rows": 3})
    assert (source, note) == ("rows", None), "a number is no data, so the folder is meant"


def test_frames_and_data_sets_are_data() -> None:
    import datasets
    import pandas

    frame, part = pandas.DataFrame(ROWS), datasets.Dataset.from_list(ROWS)
    assert resolve_source("frame", {"frame": frame})[0] is frame
    both = datasets.DatasetDict({"train": part, "test": part.select([])})
    for data in (part, both):
        assert resolve_source("data", {"data": data})[0] is data


def test_a_path_in_a_variable_and_names_that_are_none() -> None:
    assert resolve_source("where", {"where": Path("x.jsonl")})[0] == "x.jsonl"
    assert resolve_source("org/data", {})[0] == "org/data"
    assert resolve_source("~/x.csv", {})[0] == str(Path("~/x.csv").expanduser())
    with pytest.raises(DataNotFoundError, match="holds no rows: it is of type int"):
        resolve_source("n", {"n": 3})
    with pytest.raises(DataNotFoundError, match="Did you mean 'medical_rows'"):
        resolve_source("medical_row", {"medical_rows": ROWS})


@pytest.mark.parametrize(
    ("text", "options", "lora"),
    [
        ("", {}, {}),
        ("\n# only a comment\n", {}, {}),
        ("learning_rate: 2e-4\nmax_steps: 100", {"learning_rate": 2e-4, "max_steps": 100}, {}),
        (
            "a: 1e5\nb: -2.5E-3\nc: 1.e+2\nd: e5\ne: v1e5",
            {"a": 1e5, "b": -2.5e-3, "c": 100.0, "d": "e5", "e": "v1e5"},
            {},
        ),
        (
            "max_length: 64\nlora:\n  r: 8\n  target_modules: [q_proj]",
            {"max_length": 64},
            {"r": 8, "target_modules": ["q_proj"]},
        ),
        ("lora:\n", {}, {}),
    ],
)
def test_bodies(text: str, options: dict[str, Any], lora: dict[str, Any]) -> None:
    assert parse_body(text) == (options, lora)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("max_steps: 1\n  bad: 2", "line 2, column 6"),
        ("max_steps: 1\nmax_steps: 2", "'max_steps' is given twice in line 2, column 1"),
        ("a: !!python/object/apply:os.system ['true']", "tag"),
        ("- 1", "'key: value' lines"),
        ("lora: 8", "lora must be"),
        ("3: 4", "a key must be a name, got 3"),
        ("{[1]: 2}", "unhashable"),
        ("a: \x07", "special characters are not allowed"),
    ],
)
def test_bodies_that_are_none(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_body(text)
    assert says in str(raised.value)
