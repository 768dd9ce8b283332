"""Where conversations are kept: one SQLite file for all programs of a user."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from llmmagic.core.chat.database import Database
from llmmagic.core.chat.feedback import Feedback, feedback_of, merged
from llmmagic.core.chat.journal import Head
from llmmagic.core.chat.messages import Message, now, writable
from llmmagic.core.chat.records import (
    HEAD_COLUMNS,
    MESSAGE_COLUMNS,
    SUMMARY_COLUMNS,
    Summary,
    first_words,
    head_of,
    head_row,
    message_of,
    message_row,
    summary_of,
    to_microseconds,
)
from llmmagic.core.chat.search import Hit, hit_of, query_for
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.config import data_dir
from llmmagic.core.errors import ConversationNotFoundError, StoreError

FILE_NAME = "conversations.db"
KEEP_DELETED = timedelta(days=30)
"""How long a deleted conversation can be restored; then it is removed when a store is opened."""


class ConversationStore:
    """Conversations on disk. Safe to use from many threads, and from many processes at once.

    It is the journal of the conversations it hands out: each of their changes is on the disk before it can be seen.

    Example:
        >>> import tempfile
        >>> with ConversationStore(Path(tempfile.mkdtemp()) / "conversations.db") as store:
        ...     talk = Conversation(journal=store)
        ...     question = talk.add("user", "Describe Montserrat.")
        ...     [summary.title for summary in store.list()]
        ...     [hit.excerpt for hit in store.search("mont")]
        ['Describe Montserrat.']
        ['Describe Montserrat.']
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open the database; make it if it is not there.

        Args:
            path: The file; ``conversations.db`` in the data folder if not given.

        Raises:
            StoreError: It cannot be opened, is damaged, or was written by a newer version.
        """
        self.path = path or data_dir() / FILE_NAME
        self._database = Database(self.path)
        self._known: dict[str, Head] = {}  # heads as their conversations here know them
        try:
            self.purge(older_than=KEEP_DELETED)
        except StoreError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. Conversations that are still changed afterwards raise `StoreError`."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- one conversation -----------------------------------------------------------------------------------------

    def save(self, head: Head, messages: Sequence[Message]) -> None:
        """Write a change down; see `Journal`. Conversations call it.

        Raises:
            StoreError: It could not be written; nothing of it was.
        """
        known = self._known.get(head.id)
        columns = dict(zip(HEAD_COLUMNS, head_row(head), strict=True))
        # Only what has changed here: the title may have been changed elsewhere meanwhile.
        before = {} if known is None else dict(zip(HEAD_COLUMNS, head_row(known), strict=True))
        changed = [name for name, value in columns.items() if known is None or before[name] != value]
        with self._database.writing() as connection:
            connection.execute(_insert("conversations", HEAD_COLUMNS, changed), columns)
            for message in messages:
                values = dict(zip(MESSAGE_COLUMNS, message_row(head.id, message), strict=True))
                is_new = connection.execute("SELECT 1 FROM messages WHERE id = ?", (message.id,)).fetchone() is None
                connection.execute(_insert("messages", MESSAGE_COLUMNS, MESSAGE_COLUMNS), values)
                if is_new:
                    # Whoever goes on with a deleted conversation wants it back.
                    connection.execute("UPDATE conversations SET deleted = NULL WHERE id = ?", (head.id,))
                if is_new and message.role == "user" and message.parent is None:
                    connection.execute(
                        "UPDATE conversations SET first_words = ? WHERE id = ? AND first_words = ''",
                        (first_words(message.content), head.id),
                    )
        self._known[head.id] = head

    def load(self, conversation_id: str) -> Conversation:
        """A stored conversation with all its branches.

        Args:
            conversation_id: Of a conversation that is not deleted.

        Returns:
            The conversation; it writes its changes down here.

        Raises:
            ConversationNotFoundError: There is none of that id.
            StoreError: The database failed.
        """
        with self._database.reading() as connection:
            row = connection.execute(
                f"SELECT {', '.join(HEAD_COLUMNS)} FROM conversations WHERE id = ? AND deleted IS NULL",
                (conversation_id,),
            ).fetchone()
            if row is None:
                raise ConversationNotFoundError(f"No conversation {conversation_id!r}.", hint="See `llmchat list`.")
            rows = connection.execute(
                f"SELECT {', '.join(MESSAGE_COLUMNS)} FROM messages WHERE conversation = ? ORDER BY seq",
                (conversation_id,),
            ).fetchall()
        head = self._known[conversation_id] = head_of(row)
        return Conversation(head=head, messages=map(message_of, rows), journal=self)

    def delete(self, conversation_id: str) -> None:
        """Take a conversation out of lists and searches; `restore` brings it back for a month.

        Raises:
            ConversationNotFoundError: There is none of that id.
            StoreError: The database failed.
        """
        moment = to_microseconds(now())
        self._change("UPDATE conversations SET deleted = :value WHERE id = :id", conversation_id, moment)

    def restore(self, conversation_id: str) -> None:
        """Bring a deleted conversation back.

        Raises:
            ConversationNotFoundError: There is none of that id, or it was purged.
            StoreError: The database failed.
        """
        self._change("UPDATE conversations SET deleted = :value WHERE id = :id", conversation_id, None)

    def purge(self, older_than: timedelta = timedelta(0)) -> int:
        """Remove deleted conversations for good.

        Args:
            older_than: Only those deleted at least so long ago.

        Returns:
            How many.

        Raises:
            StoreError: The database failed.
        """
        until = (to_microseconds(now() - older_than),)
        with self._database.reading() as connection:
            # Mostly there is nothing, and then nobody who is writing has to be waited for.
            gone = connection.execute("SELECT id FROM conversations WHERE deleted <= ?", until).fetchall()
        if not gone:
            return 0
        with self._database.writing() as connection:
            connection.execute("PRAGMA secure_delete = ON")  # what was deleted is overwritten, too
            connection.execute("DELETE FROM conversations WHERE deleted <= ?", until)
            connection.execute("INSERT INTO words (words) VALUES ('optimize')")  # the words leave the index, too
        for (conversation_id,) in gone:
            self._known.pop(conversation_id, None)
        return len(gone)

    # --- many conversations ---------------------------------------------------------------------------------------

    def list(self, *, limit: int | None = None) -> Sequence[Summary]:
        """Conversations that have messages, last changed first.

        Args:
            limit: At most so many; all if not given.

        Returns:
            Their summaries.

        Raises:
            StoreError: The database failed.
        """
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT {SUMMARY_COLUMNS} FROM conversations AS c JOIN messages AS last ON last.id = c.leaf "
                "WHERE c.deleted IS NULL ORDER BY c.updated DESC, c.id DESC LIMIT ?",
                (-1 if limit is None else limit,),
            ).fetchall()
        return [summary_of(row) for row in rows]

    def search(self, words: str, *, limit: int = 50) -> Sequence[Hit]:
        """Messages that contain all words, on any branch; the last one may be the beginning of a word.

        Args:
            words: As a person types them: taken literally, without operators. Case and accents make no difference.
            limit: At most so many.

        Returns:
            Newest first; empty if there are no words.

        Raises:
            StoreError: The database failed.
        """
        query = query_for(writable(words))
        if query is None:
            return []
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT m.id, m.role, {query.excerpt}, {SUMMARY_COLUMNS} FROM {query.source} "
                "JOIN conversations AS c ON c.id = m.conversation LEFT JOIN messages AS last ON last.id = c.leaf "
                f"WHERE {query.condition} AND c.deleted IS NULL ORDER BY {query.order} DESC LIMIT ?",
                (query.value, limit),
            ).fetchall()
        return [hit_of(row, words.strip()) for row in rows]

    def feedback(self) -> Feedback:
        """What people thought of replies, in all conversations that have more than one reply to a message or a rating.

        Returns:
            Preference pairs, rated replies and better answers, for training.

        Raises:
            StoreError: The database failed.
        """
        with self._database.reading() as connection:
            rows = connection.execute(
                "SELECT DISTINCT c.id FROM conversations AS c JOIN messages AS m ON m.conversation = c.id "
                "WHERE c.deleted IS NULL AND m.role = 'assistant' AND (m.rating IS NOT NULL OR m.better IS NOT NULL OR "
                "EXISTS (SELECT 1 FROM messages AS other WHERE other.parent = m.parent AND other.id <> m.id)) "
                "ORDER BY c.created"
            ).fetchall()
        return merged(feedback_of(self.load(conversation_id)) for (conversation_id,) in rows)

    def _change(self, statement: str, conversation_id: str, value: object) -> None:
        with self._database.writing() as connection:
            if connection.execute(statement, {"id": conversation_id, "value": value}).rowcount == 0:
                raise ConversationNotFoundError(f"No conversation {conversation_id!r}.", hint="See `llmchat list`.")


def _insert(table: str, columns: Sequence[str], changed: Sequence[str]) -> str:
    """SQL that inserts a row, or changes some columns of the one of that id."""
    updates = ", ".join(f"{name} = excluded.{name}" for name in changed)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join(f':{name}' for name in columns)}) "
        f"ON CONFLICT (id) DO {f'UPDATE SET {updates}' if updates else 'NOTHING'}"
    )
