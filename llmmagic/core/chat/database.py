"""The SQLite file behind the store: opening, migrating, and connections for many threads.

WAL mode lets a notebook and a terminal app read and write the same file at once. ``synchronous=FULL``: when a commit
returns, the message is on the disk, not in a cache of the operating system; that is what "sent" promises.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from llmmagic.core.errors import StoreError

BUSY_S = 10.0  # how long to wait for another process's write
_TRIES = 50

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversations (
            id TEXT PRIMARY KEY,
            created INTEGER NOT NULL,  -- microseconds since 1970, UTC, as all times here
            updated INTEGER NOT NULL,
            title TEXT NOT NULL,
            first_words TEXT NOT NULL DEFAULT '',  -- beginning of the first user message, for lists
            system TEXT,
            leaf TEXT,
            deleted INTEGER
        )""",
        """CREATE TABLE messages (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            parent TEXT REFERENCES messages (id) ON DELETE CASCADE,
            role TEXT NOT NULL,
            content TEXT NOT NULL,
            created INTEGER NOT NULL,
            pinned INTEGER NOT NULL,
            token_count INTEGER,
            rating INTEGER,
            better TEXT,
            finish_reason TEXT,
            model_id TEXT,
            window_start TEXT,
            window_limit INTEGER
        )""",
        "CREATE INDEX messages_of_conversation ON messages (conversation, seq)",
        "CREATE INDEX messages_of_parent ON messages (parent)",
        "CREATE INDEX conversations_by_time ON conversations (updated)",
    ),
    (
        """CREATE VIRTUAL TABLE words USING fts5 (
            content, content = 'messages', content_rowid = 'seq',
            tokenize = "unicode61 remove_diacritics 2", prefix = '1 2 3'
        )""",
        """CREATE TRIGGER words_added AFTER INSERT ON messages BEGIN
            INSERT INTO words (rowid, content) VALUES (new.seq, new.content);
        END""",
        """CREATE TRIGGER words_changed AFTER UPDATE OF content ON messages WHEN old.content <> new.content BEGIN
            INSERT INTO words (words, rowid, content) VALUES ('delete', old.seq, old.content);
            INSERT INTO words (rowid, content) VALUES (new.seq, new.content);
        END""",
        """CREATE TRIGGER words_removed AFTER DELETE ON messages BEGIN
            INSERT INTO words (words, rowid, content) VALUES ('delete', old.seq, old.content);
        END""",
        "INSERT INTO words (words) VALUES ('rebuild')",
    ),
)
"""What leads from each version of the file to the next; ``PRAGMA user_version`` counts them."""


class Database:
    """Connections to one file; each is used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, make it if it is not there, bring it up to date.

        Args:
            path: Of the file.

        Raises:
            StoreError: It cannot be opened, is no database, or was written by a newer version.
        """
        self.path = path
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        try:
            with self._errors():
                _make_private(path)
            with self.reading() as connection:
                _migrate(connection, path)
        except StoreError:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with.

        Raises:
            StoreError: What SQLite raised.
        """
        with self._errors():
            connection = self._take()
            try:
                yield connection
            finally:
                self._give(connection)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a transaction, committed at the end of the block and undone if the block raises.

        Raises:
            StoreError: What SQLite raised; nothing was written.
        """
        with self.reading() as connection, _transaction(connection):
            yield connection

    def close(self) -> None:
        """Close all connections; the last one of all processes folds the WAL into the file."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise StoreError("The conversation database is closed.")
            if self._idle:
                return self._idle.pop()
        # Without an isolation level, transactions begin where this module says so.
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            _into_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _give(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as err:
            text = str(err)
            if "locked" in text or "busy" in text:
                hint = "Another program has been writing to it for too long."
            elif "full" in text:
                hint = "There is no space left on the disk."
            elif "fts5" in text:
                hint = "This Python's SQLite was built without full-text search (FTS5)."
            else:
                hint = "Is the folder there, and may you write to it?"
            raise StoreError(f"The conversation database {self.path} failed: {text}.", hint=hint) from err
        except sqlite3.IntegrityError as err:
            raise StoreError(
                f"This conversation is no longer in {self.path}: {err}.",
                hint="Another program has removed it for good.",
            ) from err
        except sqlite3.DatabaseError as err:
            raise StoreError(
                f"The conversation database {self.path} is damaged or none at all: {err}.",
                hint="Move it away, a new one is made then.",
            ) from err
        except OSError as err:
            raise StoreError(
                f"The conversation database {self.path} cannot be opened: {err.strerror or err}.",
                hint="Is the folder there, and may you write to it?",
            ) from err


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE: waiting for another writer happens here, not in the middle.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _make_private(path: Path) -> None:
    """Conversations are nobody else's business; SQLite gives its other files the same mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _into_wal(connection: sqlite3.Connection) -> None:
    for attempt in range(_TRIES):
        try:
            with closing(connection.execute("PRAGMA journal_mode = WAL")) as answer:
                answer.fetchone()
                return
        except sqlite3.OperationalError as err:
            # Two processes that make the file at once: SQLite does not wait for this one by itself.
            if "locked" not in str(err) or attempt == _TRIES - 1:
                raise
            time.sleep(0.02)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _version(connection) == len(MIGRATIONS):
        return
    with _transaction(connection):
        version = _version(connection)  # another process may have been quicker
        if version > len(MIGRATIONS):
            raise StoreError(
                f"The conversation database {path} was written by a newer llmmagic (version {version}).",
                hint="Upgrade llmmagic, or choose another data folder.",
            )
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
