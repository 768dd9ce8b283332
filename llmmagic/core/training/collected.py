"""Training data that was collected in chats: ``feedback``, and ``conversations``.

| source | what it is |
| --- | --- |
| ``feedback`` | replies that were rated, regenerated, edited or answered better, in all conversations |
| ``conversations`` | every conversation, its active branch as messages |
| ``conversations:last`` | the one that was changed last |
| ``conversations:ID,TITLE`` | those of these ids, titles or names in this session |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmmagic.core.chat.feedback import Feedback, chat_messages, feedback_of, merged
from llmmagic.core.config import MethodName
from llmmagic.core.errors import ConfigError, DataNotFoundError, did_you_mean
from llmmagic.core.events import Notice

if TYPE_CHECKING:
    from llmmagic.core.chat.store import ConversationStore
    from llmmagic.core.chat.tree import Conversation
    from llmmagic.core.training.sources import DataSource

FEEDBACK, CONVERSATIONS = "feedback", "conversations"
NAMES = (FEEDBACK, CONVERSATIONS)

_WHERE = "in llmchat, or in the notebook's chat panel"
_LEARNS: dict[str, str] = {
    "dpo": f"Prefer one reply to another {_WHERE}: rate them, regenerate one and go on, or write a better answer.",
    "kto": f"Rate replies {_WHERE}: thumbs up and thumbs down.",
    "sft": f"Write better answers, or rate replies as good, {_WHERE}.",
    "grpo": f"Rate replies or write better answers {_WHERE}: their prompts are used.",
}


def is_collected(source: object) -> bool:
    """Whether a source names what was collected in chats. A file or folder of that name comes first."""
    if not isinstance(source, str) or Path(source).exists():
        return False
    return source == FEEDBACK or source.partition(":")[0] == CONVERSATIONS


def collect(
    source: DataSource,
    method: MethodName,
    store: ConversationStore | None,
    session: Mapping[str, Conversation],
    emit: Callable[[Notice], None],
) -> DataSource:
    """Rows for a source that was collected in chats.

    Args:
        source: What the user gave; anything else is given back.
        method: Decides which rows are of use.
        store: Where conversations are kept.
        session: Conversations of the session by name: those that are not in the store count, too.
        emit: Is told how many rows were found, and why others are of no use.

    Returns:
        Rows.

    Raises:
        DataNotFoundError: There are none that the method can learn from; the hint says how to make some.
        ConfigError: The method learns nothing from such data.
        StoreError: The database failed.
    """
    if not isinstance(source, str) or not is_collected(source):
        return source
    if method == "pretrain":
        raise ConfigError("Pre-training reads raw text, not chats.", hint="Use the method sft, dpo or kto.")
    own = [talk for talk in session.values() if talk.journal is None]
    if source == FEEDBACK:
        stored = Feedback() if store is None else store.feedback()
        return _feedback_rows(merged([stored, *map(feedback_of, own)]), method, emit)
    if method not in ("sft", "grpo"):
        raise ConfigError(f"Whole conversations hold no preferences for {method}.", hint="Use --data feedback.")
    names = source.partition(":")[2]
    talks = _chosen(names, store, session) if names else _all(store, own)
    return _conversation_rows(talks, emit)


def _feedback_rows(feedback: Feedback, method: MethodName, emit: Callable[[Notice], None]) -> list[Mapping[str, Any]]:
    choices: dict[str, tuple[Sequence[Mapping[str, Any]], str]] = {
        "dpo": (feedback.pairs, "pairs of replies"),
        "kto": (feedback.rated, "rated replies"),
        "sft": (feedback.answers, "better answers and replies rated good"),
        "grpo": (_prompts(feedback), "prompts"),
    }
    rows, what = choices[method]
    left = [f"{count} {reason}" for reason, count in feedback.unusable.items()]
    if method == "dpo" and feedback.uncompared:
        left.append(f"{feedback.uncompared} rated, with no other reply to compare with")
    why = f" Of no use are replies: {', '.join(left)}." if left else ""
    if not rows:
        other = "kto" if method == "dpo" and feedback.rated else "dpo" if method == "kto" and feedback.pairs else ""
        instead = f" The method {other} could use what there is." if other else ""
        raise DataNotFoundError(
            f"There is no feedback that {method} can learn from.{why}", hint=_LEARNS[method] + instead
        )
    emit(Notice(f"Feedback: {len(rows)} {what}.{why}", topic="feedback"))
    return list(rows)


def _prompts(feedback: Feedback) -> list[Mapping[str, Any]]:
    seen: dict[str, Mapping[str, Any]] = {}
    for row in (*feedback.pairs, *feedback.rated):
        seen.setdefault(repr(row["prompt"]), {"prompt": row["prompt"]})
    return list(seen.values())


def _all(store: ConversationStore | None, own: Iterable[Conversation]) -> list[Conversation]:
    stored = [] if store is None else [store.load(summary.id) for summary in store.list()]
    return [*stored, *own]


def _chosen(names: str, store: ConversationStore | None, session: Mapping[str, Conversation]) -> list[Conversation]:
    """Conversations by id, title or name.

    Raises:
        DataNotFoundError: One of them does not exist.
    """
    summaries = [] if store is None else list(store.list())
    by_title = {summary.title.casefold(): summary.id for summary in reversed(summaries)}
    ids = {summary.id for summary in summaries}
    talks = []
    for name in (part.strip() for part in names.split(",") if part.strip()):
        if name == "last" and (summaries or session):
            latest = max(session.values(), key=lambda talk: talk.head.updated, default=None)
            stored = summaries[0] if summaries else None
            if latest is not None and (stored is None or latest.head.updated >= stored.updated):
                talks.append(latest)
            elif stored is not None and store is not None:
                talks.append(store.load(stored.id))
        elif name in session:
            talks.append(session[name])
        elif store is not None and (found := name if name in ids else by_title.get(name.casefold())):
            talks.append(store.load(found))
        else:
            known = [*session, *(summary.title for summary in summaries)]
            raise DataNotFoundError(
                f"There is no conversation {name!r}.",
                hint=did_you_mean(name, known) or "See `llmchat list` for ids and titles.",
            )
    return talks


def _conversation_rows(talks: Sequence[Conversation], emit: Callable[[Notice], None]) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    for talk in talks:
        path = talk.path()
        while path and (path[-1].role != "assistant" or path[-1].partial or not path[-1].content):
            path.pop()
        if path:
            rows.append({"messages": chat_messages(talk, path[-1].id)})
    left = len(talks) - len(rows)
    why = f" {left} without a whole reply {'is' if left == 1 else 'are'} left out." if left else ""
    if not rows:
        raise DataNotFoundError(f"There is no conversation to learn from.{why}", hint=f"Have one {_WHERE}.")
    emit(Notice(f"Conversations: {len(rows)}.{why}", topic="conversations"))
    return rows
