"""A program that is killed at any moment has lost nothing that it had shown."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from llmmagic.core.chat.store import ConversationStore

# Talks without end; says on its standard output what it would have shown on a screen.
WRITER = """
import sys
from pathlib import Path
from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation

store = ConversationStore(Path(sys.argv[1]))
talk = Conversation(journal=store)
for number in range(10_000):
    question = talk.add("user", f"question {number}")
    print("sent", talk.id, question.id, question.content, sep="|", flush=True)
    reply = talk.add("assistant", "", finish_reason="cancelled")
    text = ""
    for word in range(5):
        text += f"word{word} "
        talk.update(reply.id, content=text)
        print("part", talk.id, reply.id, text, sep="|", flush=True)
    talk.update(reply.id, content=text, finish_reason="stop")
    print("done", talk.id, reply.id, text, sep="|", flush=True)
"""


def kill_once(path: Path, chance: random.Random) -> list[list[str]]:
    """Let the writer run for a while and kill it.

    Returns:
        What it had shown.
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert writer.stdout is not None
    lines = [writer.stdout.readline() for _ in range(chance.randint(0, 60))]
    time.sleep(chance.random() * 0.02)
    writer.kill()
    lines += writer.stdout.readlines()
    writer.wait()
    writer.stdout.close()
    # A line that was cut off in the middle was not shown.
    return [line.rstrip("\n").split("|") for line in lines if line.endswith("\n")]


def check(path: Path, shown: list[list[str]]) -> None:
    with ConversationStore(path) as store:
        for kind, talk_id, message_id, text in shown:
            message = store.load(talk_id)[message_id]
            assert message.content.startswith(text)
            if kind == "done":
                assert message.finish_reason == "stop"
            assert message.role == "user" or message.partial == (message.finish_reason != "stop")
        if shown:
            assert store.search(shown[-1][3])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")  # raises if it is not


@pytest.mark.parametrize("rounds", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments_nothing_shown_is_missing(tmp_path: Path, rounds: int) -> None:
    chance = random.Random(rounds)
    path, shown = tmp_path / "conversations.db", []
    for _ in range(rounds):
        shown += kill_once(path, chance)
    assert len({talk_id for _, talk_id, *_ in shown}) > rounds // 2
    check(path, shown[-2000:])
