"""The conversation store: opening a long conversation, searching many messages, listing many conversations.

Each is measured beside what a program without this store would do with the same data in the same run: read a JSON file,
look through all messages with ``LIKE``.

    python -m benchmarks store [--quick]
"""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.peers import time_row
from llmmagic.core.chat.export import export
from llmmagic.core.chat.messages import Message, new_id
from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation

LONG, MANY, CONVERSATIONS = 10_000, 100_000, 10_000
OPEN_S, SEARCH_S = 0.3, 0.05
SYLLABLES = ["ka", "lo", "mi", "ter", "an", "os", "ve", "ri", "sul", "en", "ta", "do", "pe", "gra", "in", "ho"]
RUNS, QUICK_RUNS = 15, 3
ROWS_AT_ONCE = 1000


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: A tenth of the data, fewer runs: to see that it works.

    Returns:
        Rows: medians, and their ratios to the peers'.
    """
    scale, runs = (10, QUICK_RUNS) if quick else (1, RUNS)
    chance = random.Random(0)
    vocabulary = ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(20_000)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path, json_path = Path(folder) / "conversations.db", Path(folder) / "long.json"
        with ConversationStore(path) as store:
            long = _fill(store, LONG // scale, vocabulary, chance)
            json_path.write_text(export(long, "json"), encoding="utf-8")
            for _ in range(CONVERSATIONS // scale):
                _fill(store, (MANY - LONG) // CONVERSATIONS, vocabulary, chance)
            rows.append(
                time_row(
                    f"open a conversation of {LONG // scale:,} messages",
                    _median(lambda: store.load(long.id).path(), runs),
                    OPEN_S,
                    "json.load of the same",
                    _median(lambda: json.loads(json_path.read_text(encoding="utf-8")), runs),
                    runs,
                )
            )
            with closing(sqlite3.connect(path)) as connection:
                for kind, words in _queries(vocabulary, chance).items():
                    rows.append(
                        time_row(
                            f"search {MANY // scale:,} messages for {kind}",
                            _median(lambda words=words: store.search(words), runs),
                            SEARCH_S,
                            "LIKE over all messages",
                            _median(lambda words=words: _scan(connection, words), runs),
                            runs,
                        )
                    )
                rows.append(
                    time_row(
                        f"list {CONVERSATIONS // scale:,} conversations, the first 200",
                        _median(lambda: store.list(limit=200), runs),
                        SEARCH_S,
                        "list all of them",
                        _median(lambda: store.list(), runs),
                        runs,
                    )
                )
    return rows


def _queries(vocabulary: list[str], chance: random.Random) -> dict[str, str]:
    one, two, three = chance.sample([word for word in vocabulary if len(word) > 5], 3)
    return {
        "a word": f"{one} ",
        "two words": f"{two[:4]} {three[:4]}",
        "a beginning": one[:3],
        "a letter": "t",
        "words that nothing has": "nothing has this",
    }


def _fill(store: ConversationStore, count: int, vocabulary: list[str], chance: random.Random) -> Conversation:
    """A conversation of random words, written down in big steps: the time of writing is not what is measured."""
    talk = Conversation()
    messages: list[Message] = []
    for i in range(count):
        content = " ".join(chance.choices(vocabulary, k=chance.randint(5, 60)))
        parent = messages[-1].id if messages else None
        messages.append(Message(new_id(), "assistant" if i % 2 else "user", content, parent=parent))
    whole = Conversation(head=talk.head, messages=messages)
    for begin in range(0, count, ROWS_AT_ONCE):
        store.save(whole.head, messages[begin : begin + ROWS_AT_ONCE])
    return whole


def _scan(connection: sqlite3.Connection, words: str) -> list[object]:
    condition = " AND ".join("content LIKE ?" for _ in words.split())
    query = f"SELECT id, content FROM messages WHERE {condition} ORDER BY seq DESC LIMIT 50"
    return connection.execute(query, [f"%{word}%" for word in words.split()]).fetchall()


def _median(work: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
