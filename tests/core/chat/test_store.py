"""The store loses nothing, finds everything, and says what is wrong with a file."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmmagic.core.chat.database import MIGRATIONS
from llmmagic.core.chat.export import export
from llmmagic.core.chat.messages import WindowMark
from llmmagic.core.chat.records import first_words
from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.config import data_dir
from llmmagic.core.errors import ConfigError, ConversationNotFoundError, StoreError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ConversationStore]:
    with ConversationStore(tmp_path / "data" / "conversations.db") as opened:
        yield opened


def talk_in(store: ConversationStore, *texts: str, title: str = "") -> Conversation:
    talk = Conversation(title=title, journal=store)
    for i, text in enumerate(texts):
        if i % 2:
            talk.add("assistant", text, finish_reason="stop", model_id="demo")
        else:
            talk.add("user", text)
    return talk


def test_a_conversation_comes_back_as_it_was(store: ConversationStore) -> None:
    talk = talk_in(store, "Describe Times New Roman.", "A serif typeface.", "And Montserrat?")
    talk.title, talk.system = "Fonts", ""
    first, reply, _ = talk.path()
    talk.pin(first.id)
    talk.rate(reply.id, -1)
    talk.better(reply.id, "Serif, from 1932.")
    talk.mark(reply.id, WindowMark(first.id, 512))
    talk.edit(first.id, "Describe Arial.")
    talk.select(reply.id)
    again = store.load(talk.id)
    assert again.head == talk.head
    assert list(again) == list(talk)
    assert again.path() == talk.path()


def test_a_loaded_conversation_goes_on_being_written_down(store: ConversationStore) -> None:
    talk = talk_in(store, "one", "two")
    store.load(talk.id).add("user", "three")
    assert [message.content for message in store.load(talk.id).path()] == ["one", "two", "three"]


def test_a_reply_that_streams_is_marked_until_it_is_finished(store: ConversationStore) -> None:
    talk = talk_in(store, "Count.")
    reply = talk.add("assistant", "", finish_reason="cancelled")
    talk.update(reply.id, content="one, two")
    assert store.load(talk.id)[reply.id].partial  # what a crash would leave
    talk.update(reply.id, content="one, two, three", finish_reason="stop")
    assert (store.load(talk.id)[reply.id].content, store.load(talk.id)[reply.id].partial) == ("one, two, three", False)


def test_lists_show_titles_and_previews_newest_first(store: ConversationStore) -> None:
    talk_in(store, "# **What** is the tallest mountain?\n\n```py\nx\n```", "Mount Everest, of course.")
    named = talk_in(store, "Hello", title="A  name ")
    Conversation(system="empty conversations are not listed", journal=store).system = "x"
    rows = [(summary.title, summary.preview) for summary in store.list()]
    assert rows == [("A name", "Hello"), ("What is the tallest mountain? x", "Mount Everest, of course.")]
    assert [summary.title for summary in store.list(limit=1)] == ["A name"]
    named.title = ""
    assert store.list()[0].title == "Hello"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  Hi\n there ", "Hi there"),
        ("> quoted *words* and `code`", "quoted words and code"),
        ("keep snake_case and 2 * 3", "keep snake_case and 2 * 3"),
        ("a\x1b[31mred\x07", "ared"),
        ("word " * 30, " ".join(["word"] * 12) + "…"),
        ("x" * 80, "x" * 59 + "…"),
        ("<think>hm</think>Four", "Four"),
        ("", ""),
    ],
)
def test_a_title_is_made_of_the_first_words(text: str, line: str) -> None:
    assert first_words(text) == line


def test_renaming_from_outside_is_not_undone_by_a_conversation_that_goes_on(store: ConversationStore) -> None:
    talk = talk_in(store, "one", title="old")
    with ConversationStore(store.path) as other:
        other.load(talk.id).title = "new"
    talk.add("assistant", "two")
    assert store.load(talk.id).title == "new"


def test_what_is_deleted_can_be_restored_until_it_is_purged(store: ConversationStore) -> None:
    talk = talk_in(store, "secret words", "yes")
    store.delete(talk.id)
    assert store.list() == []
    assert store.search("secret") == []
    with pytest.raises(ConversationNotFoundError):
        store.load(talk.id)
    store.restore(talk.id)
    assert len(store.search("secret")) == 1
    store.delete(talk.id)
    assert store.purge(older_than=timedelta(days=1)) == 0
    assert store.purge() == 1
    with pytest.raises(ConversationNotFoundError):
        store.restore(talk.id)
    with pytest.raises(StoreError, match="no longer in"):
        talk.add("user", "more")
    store.close()
    assert b"secret words" not in store.path.read_bytes()


def test_what_was_deleted_long_ago_is_gone_when_the_store_is_opened(store: ConversationStore) -> None:
    old, new = talk_in(store, "old"), talk_in(store, "new")
    store.delete(old.id)
    store.delete(new.id)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE conversations SET deleted = 1 WHERE id = ?", (old.id,))
    connection.close()
    with ConversationStore(store.path) as again:
        again.restore(new.id)
        with pytest.raises(ConversationNotFoundError):
            again.restore(old.id)


def test_going_on_with_a_deleted_conversation_brings_it_back(store: ConversationStore) -> None:
    talk = talk_in(store, "one", "two")
    reply = talk.path()[-1]
    store.delete(talk.id)
    talk.update(reply.id, content="a reply that was still streaming")
    assert store.list() == []
    talk.add("user", "three")
    assert [summary.id for summary in store.list()] == [talk.id]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("serif", 2),
        ("SERIF typeface", 1),
        ("typ", 1),
        ("typ ", 0),
        ("cafe", 1),
        ('"quoted" AND (x OR', 1),
        ("NEAR(a b)", 0),
        ("content:serif", 0),
        ("sans-serif", 1),
        ("don't", 1),
        ("東京", 1),
        ("京タ", 1),
        ("100%", 1),
        ("", 0),
        ('"*()^', 0),
    ],
)
def test_words_are_searched_for_as_they_are_typed(store: ConversationStore, words: str, found: int) -> None:
    talk_in(
        store,
        "A serif typeface",
        "A sans-serif one: café",
        'I don\'t say "quoted" and x or y',
        "東京タワー",
        "100 percent",
    )
    assert len(store.search(words)) == found


def test_a_hit_shows_where_the_words_are(store: ConversationStore) -> None:
    talk = talk_in(store, "long " * 100 + "\nthe tallest mountain\n" + "tail " * 100, "東京タワーは高い")
    hit = store.search("tallest mount")[0]
    assert hit.conversation.id == talk.id
    assert [hit.excerpt[a:b] for a, b in hit.marks] == ["tallest", "mountain"]
    assert len(hit.excerpt) < 200
    hit = store.search("タワー")[0]
    assert [hit.excerpt[a:b] for a, b in hit.marks] == ["タワー"]
    assert (hit.role, hit.excerpt) == ("assistant", "東京タワーは高い")


def test_an_edited_reply_is_found_by_its_new_words_only(store: ConversationStore) -> None:
    talk = talk_in(store, "q", "wrong")
    talk.update(talk.path()[-1].id, content="right")
    assert (len(store.search("wrong")), len(store.search("right"))) == (0, 1)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("ab \"*'(){}-:^"), max_size=20))
@settings(max_examples=60, deadline=None)
def test_no_search_fails_and_a_text_is_found_by_itself(text: str) -> None:
    with ConversationStore(data_dir() / "scratch.db") as store:
        talk = talk_in(store, text)
        if any(map(str.isalnum, text)):
            assert talk.id in [hit.conversation.id for hit in store.search(text)]
        else:
            store.search(text)


def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as old:
        for statement in MIGRATIONS[0]:
            old.execute(statement)
        old.execute("INSERT INTO conversations (id, created, updated, title, leaf) VALUES ('c', 1, 1, 'Old', 'm')")
        old.execute(
            "INSERT INTO messages (id, conversation, role, content, created, pinned)"
            " VALUES ('m', 'c', 'user', 'written long ago', 1, 0)"
        )
        old.execute("PRAGMA user_version = 1")
    old.close()
    with ConversationStore(path) as store:
        assert [hit.excerpt for hit in store.search("long")] == ["written long ago"]
        assert store.load("c").path()[0].content == "written long ago"
    with sqlite3.connect(path) as new:
        assert new.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    new.close()


def test_files_that_cannot_be_used_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=r"newer llmmagic \(version 99\)"):
        ConversationStore(newer)
    (tmp_path / "text.db").write_text("This is no database. " * 100)
    with pytest.raises(StoreError, match="damaged or none at all"):
        ConversationStore(tmp_path / "text.db")
    assert (tmp_path / "text.db").read_text().startswith("This is no database.")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        ConversationStore(tmp_path / "file" / "conversations.db")


def test_a_closed_store_says_so(store: ConversationStore) -> None:
    talk = talk_in(store, "one")
    store.close()
    with pytest.raises(StoreError, match="is closed"):
        talk.add("user", "two")
    assert len(talk) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_the_files_are_nobody_elses_business(store: ConversationStore) -> None:
    talk_in(store, "one")
    for name in os.listdir(store.path.parent):
        assert stat.S_IMODE((store.path.parent / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_threads_and_other_stores_write_at_once_and_nothing_is_lost(store: ConversationStore) -> None:
    errors: list[BaseException] = []

    def write(own: ConversationStore, name: int) -> None:
        try:
            talk = Conversation(title=f"talk {name}", journal=own)
            for i in range(20):
                talk.add("user", f"message {i}")
                own.list()
                own.search("message")
        except BaseException as err:
            errors.append(err)

    others = [ConversationStore(store.path) for _ in range(2)]
    threads = [threading.Thread(target=write, args=([store, *others][i % 3], i)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for other in others:
        other.close()
    assert errors == []
    assert {len(store.load(summary.id)) for summary in store.list()} == {20}
    assert len(store.list()) == 6


def test_feedback_becomes_pairs_and_labels(store: ConversationStore) -> None:
    talk = talk_in(store, "2 + 2?", "Five.")
    talk.system = "Be exact."
    question, bad = talk.path()
    good = talk.add("assistant", "Four.", parent=question.id, finish_reason="stop")
    talk.rate(bad.id, -1)
    talk.rate(good.id, 1)
    talk.better(bad.id, "It is four.")
    talk_in(store, "nobody rated", "this")
    prompt = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "2 + 2?"}]
    five, four, better = ([{"role": "assistant", "content": text}] for text in ("Five.", "Four.", "It is four."))
    feedback = store.feedback()
    assert feedback.pairs == [
        {"prompt": prompt, "chosen": better, "rejected": five},
        {"prompt": prompt, "chosen": four, "rejected": five},
    ]
    assert feedback.rated == [
        {"prompt": prompt, "completion": five, "label": False},
        {"prompt": prompt, "completion": four, "label": True},
    ]


def test_exports_are_for_reading_for_keeping_and_for_training(store: ConversationStore) -> None:
    talk = talk_in(store, "2 + 2?", "Four.", title="Sums")
    talk.system = "Be exact."
    talk.add("assistant", "Fo", parent=talk.path()[0].id, finish_reason="cancelled")
    markdown = export(talk, "md")
    assert markdown.startswith("# Sums\n")
    assert markdown.endswith("## You\n\n2 + 2?\n\n## Assistant\n\nFo\n\n*(stopped)*\n")
    whole = json.loads(export(talk, "json"))
    assert (whole["title"], [message["content"] for message in whole["messages"]]) == (
        "Sums",
        ["2 + 2?", "Four.", "Fo"],
    )
    assert [json.loads(line) for line in export(talk, "jsonl").splitlines()] == [
        {
            "messages": [
                {"role": "system", "content": "Be exact."},
                {"role": "user", "content": "2 + 2?"},
                {"role": "assistant", "content": "Four."},
            ]
        }
    ]
    talk.title = ""
    assert export(talk, "md").startswith("# 2 + 2?\n")
    with pytest.raises(ConfigError, match=r"format must be one of md, json, jsonl, got 'pdf'"):
        export(talk, "pdf")  # type: ignore[arg-type]
