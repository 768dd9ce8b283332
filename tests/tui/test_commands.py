"""``llmchat list``, ``show``, ``search``, ``export``, ``delete``, ``path``: on a real store."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.errors import ConversationNotFoundError
from llmmagic_tui.cli import main
from llmmagic_tui.commands import find_conversation, short_length

ESCAPE = "\x1b]0;owned\x07\x1b[2Jred"


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Call(Protocol):
    def __call__(self, *arguments: str) -> Done: ...


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMMAGIC_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("LLMMAGIC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LLMCHAT_ENGINE", "transformers")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str) -> Done:
        return Done(main(arguments), *capsys.readouterr())

    return run


@pytest.fixture
def talks() -> list[str]:
    """Two conversations, the older one first; the newer one has a branch and an escape sequence."""
    with ConversationStore() as store:
        first = Conversation(system="You know typefaces.", journal=store)
        first.add("user", "Describe Montserrat.")
        first.add("assistant", "A geometric **sans-serif**.", finish_reason="stop", model_id="demo")
        second = Conversation(title=f"Tallest mountain? {ESCAPE}", journal=store)
        question = second.add("user", "Größte Berge?")
        second.add("assistant", "Mount Everest.", finish_reason="stop")
        second.edit(question.id, f"Tallest mountain? {ESCAPE}")
        second.add("assistant", "Ever", finish_reason="cancelled")
        return [first.id, second.id]


def test_list_is_newest_first(talks: list[str], call: Call) -> None:
    status, out, err = call("list")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [talks[1].startswith(lines[0].split()[0]), talks[0].startswith(lines[1].split()[0])] == [True, True]
    assert lines[1].endswith("Describe Montserrat.")
    assert call("list", "--ids").out.split() == talks[::-1]
    assert [row["id"] for row in json.loads(call("list", "--json").out)] == talks[::-1]
    assert call("list", "--limit", "1", "--ids").out.split() == talks[1:]


def test_nothing_yet_is_no_error_but_last_is(call: Call) -> None:
    assert call("list") == (0, "", "")
    assert call("search", "anything") == (0, "", "")
    status, out, err = call("show", "last")
    assert (status, out) == (1, "")
    assert err == "llmchat: There are no conversations yet. Start one: llmchat\n"


def test_show_prints_the_path_in_use(talks: list[str], call: Call) -> None:
    out = call("show", "last").out
    assert "Tallest mountain?" in out
    assert "· 2/2\n" in out
    assert "· stopped\nEver\n" in out
    assert "Größte" not in out
    assert ESCAPE in out  # a file gets what is there
    assert "── system\nYou know typefaces.\n" in call("show", talks[0]).out


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals of POSIX")
@pytest.mark.parametrize(
    "arguments", [("list",), ("show", "last"), ("search", "tallest"), ("export", "last"), ("list", "--json")]
)
def test_terminal_gets_no_control_characters(
    arguments: tuple[str, ...], talks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty

    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(arguments) == 0
        terminal.flush()
        shown = os.read(master, 65536)
    os.close(master)
    assert b"Tallest mountain?" in shown
    assert b"\x1b" not in shown
    assert b"\x07" not in shown


def test_conversation_is_found_by_the_beginning_of_its_id(talks: list[str]) -> None:
    with ConversationStore() as store:
        length = short_length(talks)
        assert [find_conversation(store, id_[:length]) for id_ in talks] == talks
        with pytest.raises(ConversationNotFoundError, match="2 conversations have an id like"):
            find_conversation(store, talks[0][:3])
        for wrong in ("zzz", "", talks[0] + "0"):
            with pytest.raises(ConversationNotFoundError, match="No conversation has an id like"):
                find_conversation(store, wrong)


def test_short_length_tells_ids_apart() -> None:
    assert short_length([]) == 8
    assert short_length(["0123456789", "1123456789"]) == 8
    assert short_length(["0123456789ab", "0123456789xy", "zzzzzzzzzzzz"]) == 11


def test_search_finds_words_on_every_branch(talks: list[str], call: Call) -> None:
    out = call("search", "everest").out
    assert out.startswith(talks[1][:8])
    assert "model: Mount Everest." in out
    assert [row["conversation"] for row in json.loads(call("search", "montserrat", "--json").out)] == [talks[0]]
    assert call("search", "montserrat", "everest").out == ""
    assert call("search", '"AND (') == (0, "", "")  # no operators: taken literally


def test_export_to_output_and_file(talks: list[str], call: Call, tmp_path: Path) -> None:
    markdown = call("export", talks[0])
    assert "## Assistant (demo)\n\nA geometric **sans-serif**.\n" in markdown.out
    file = tmp_path / "talk.jsonl"
    assert call("export", talks[1], "--format", "jsonl", "-o", str(file)) == (0, "", "")
    # Only the branch with a finished reply is training data.
    assert [json.loads(line)["messages"][-2:] for line in file.read_text(encoding="utf-8").splitlines()] == [
        [{"role": "user", "content": "Größte Berge?"}, {"role": "assistant", "content": "Mount Everest."}]
    ]
    whole = json.loads(call("export", "last", "--format", "json").out)
    assert len(whole["messages"]) == 4
    status, _, err = call("export", "last", "-o", str(tmp_path / "nowhere" / "x.md"))
    assert status == 1
    assert "x.md cannot be written" in err


def test_delete_can_be_taken_back(talks: list[str], call: Call) -> None:
    status, out, _ = call("delete", "last")
    assert status == 0
    assert call("list", "--ids").out.split() == talks[:1]
    assert out.endswith(f"llmchat restore {talks[1]}\n")
    assert call("restore", talks[1])[0] == 0
    assert call("list", "--ids").out.split() == talks[::-1]


def test_path_names_the_places(call: Call, tmp_path: Path) -> None:
    assert call("path").out == f"{tmp_path / 'data' / 'conversations.db'}\n"
    assert call("path", "config").out == f"{tmp_path / 'config' / 'config.toml'}\n"
    assert call("path", "--data-dir", str(tmp_path / "other"), "data").out == f"{tmp_path / 'other'}\n"
    os.environ["LLMMAGIC_DATA_DIR"] = str(tmp_path / "data")


def test_filter_goes_on_with_a_conversation(
    talks: list[str], call: Call, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"And its weights?")))
    status, out, err = call(str(tiny_folder), "--conversation", talks[0], "--max-new-tokens", "8", "--seed", "1")
    assert (status, err) == (0, "")
    with ConversationStore() as store:
        path = store.load(talks[0]).path()
    assert [message.content for message in path[:3]] == [
        "Describe Montserrat.", "A geometric **sans-serif**.", "And its weights?",
    ]  # fmt: skip
    assert path[3].content == out.removesuffix("\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hi")))
    assert call(str(tiny_folder), "--conversation", "zzz")[0] == 1


def test_damaged_database_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "conversations.db").write_text("no database at all, but long enough to be looked at " * 9)
    status, out, err = call("list")
    assert (status, out) == (1, "")
    assert "damaged" in err
    assert err.count("\n") == 1
