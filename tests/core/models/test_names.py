"""Model names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llmmagic.core.errors import ConfigError, ModelNotFoundError
from llmmagic.core.models.names import parse_name


def test_a_hub_id_with_a_revision() -> None:
    name = parse_name("org/some-model.v2@abc123")
    assert (name.kind, name.text, name.revision) == ("hub", "org/some-model.v2", "abc123")


def test_a_revision_given_apart_is_the_same() -> None:
    assert parse_name("org/name", revision="main") == parse_name("org/name@main")


def test_two_different_revisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="'a' in the name and 'b'"):
        parse_name("org/name@a", revision="b")


@pytest.mark.parametrize("text", ["demo", "tiny-random"])
def test_our_own_names(text: str) -> None:
    assert parse_name(text).kind == text
    with pytest.raises(ConfigError, match="goes only with a Hub id"):
        parse_name(text, revision="main")


def test_folders_and_files(tiny_folder: Path, tmp_path: Path) -> None:
    assert parse_name(str(tiny_folder)).kind == "folder"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    assert parse_name(str(tmp_path / "adapter")).kind == "adapter"
    (tmp_path / "x.GGUF").write_bytes(b"GGUF")
    name = parse_name(str(tmp_path / "x.GGUF"))
    assert (name.kind, name.path) == ("gguf", tmp_path / "x.GGUF")


def test_a_relative_folder_that_looks_like_a_hub_id(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert parse_name("org/name").kind == "folder"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dmeo", "no folder here and no Hub id (org/name). Did you mean 'demo'?"),
        ("gpt2", "no folder here and no Hub id (org/name). Also possible"),
        ("./nowhere", "There is no file or folder './nowhere'"),
        ("/no/such/folder", "There is no file or folder '/no/such/folder'"),
        ("C:\\models\\x", "There is no file or folder"),
        ("a/b/c", "There is no file or folder 'a/b/c'"),
        ("model.gguf", "There is no file or folder 'model.gguf'"),
        ("org/name with spaces", "no folder here and no Hub id"),
    ],
)
def test_what_names_nothing(text: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        parse_name(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_nearest_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "llama.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"Did you mean 'llama\.gguf'"):
        parse_name(str(tmp_path / "lama.gguf"))


def test_an_empty_folder_and_a_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        parse_name(str(tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelNotFoundError, match=r"not a \.gguf file"):
        parse_name(str(tmp_path / "notes.txt"))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"Give the file itself: .*a\.gguf"):
        parse_name(str(tmp_path))
