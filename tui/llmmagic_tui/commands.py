"""What ``llmchat`` does besides chatting: look at conversations, and take them out."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import cache_dir, data_dir
from llmmagic.core.errors import ConversationNotFoundError, StorageError
from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic_tui.settings import config_path

if TYPE_CHECKING:
    from llmmagic.core.chat.store import ConversationStore

_ID_LENGTH = 8  # hexadecimal digits of an id, at least: four seconds apart
_ROLES = {"user": "you", "assistant": "model"}


def open_store() -> AbstractContextManager[ConversationStore]:
    """The conversations of the user.

    Raises:
        StoreError: They cannot be opened.
    """
    from llmmagic.core.chat.store import ConversationStore

    return ConversationStore()


def find_conversation(store: ConversationStore, given: str) -> str:
    """The id of a conversation.

    Args:
        store: Where to look.
        given: The id, the beginning of one, or ``last``.

    Raises:
        ConversationNotFoundError: There is none, or more than one.
    """
    summaries = store.list(limit=1 if given == "last" else None)
    if given == "last":
        if not summaries:
            raise ConversationNotFoundError("There are no conversations yet.", hint="Start one: llmchat")
        return summaries[0].id
    found = [summary for summary in summaries if summary.id.startswith(given)]
    if not found or not given:
        raise ConversationNotFoundError(f"No conversation has an id like {given!r}.", hint="See: llmchat list")
    if len(found) > 1:
        some = ", ".join(f"{summary.id} ({one_line(summary.title, limit=30)})" for summary in found[:3])
        raise ConversationNotFoundError(f"{len(found)} conversations have an id like {given!r}: {some}, ...")
    return found[0].id


def run_command(name: str, arguments: argparse.Namespace) -> int:
    """Run one command.

    Args:
        name: A key of `COMMANDS`.
        arguments: What its parser made of the command line.

    Returns:
        The exit status.

    Raises:
        LLMMagicError: It failed.
    """
    if name in _STORE_COMMANDS:
        with open_store() as store:
            _STORE_COMMANDS[name](store, arguments)
    else:
        _COMMANDS[name](arguments)
    return 0


def _list(store: ConversationStore, arguments: argparse.Namespace) -> None:
    summaries = store.list(limit=arguments.limit)
    if arguments.json:
        _print_json([
            {
                "id": summary.id,
                "title": summary.title,
                "preview": summary.preview,
                "created": summary.created.isoformat(),
                "updated": summary.updated.isoformat(),
            }
            for summary in summaries
        ])  # fmt: skip
        return
    ids = [summary.id for summary in summaries]
    if arguments.ids:
        sys.stdout.writelines(f"{id_}\n" for id_ in ids)
        return
    length = short_length([summary.id for summary in store.list()])
    for summary in summaries:
        moment = f"{summary.updated.astimezone():%Y-%m-%d %H:%M}"
        sys.stdout.write(f"{summary.id[:length]}  {moment}  {one_line(summary.title, limit=60)}\n")


def short_length(ids: Sequence[str]) -> int:
    """How many characters tell all ids apart: at least 8."""
    ordered = sorted(ids)
    length = _ID_LENGTH
    for first, second in itertools.pairwise(ordered):
        while first[:length] == second[:length]:
            length += 1
    return length


def _show(store: ConversationStore, arguments: argparse.Namespace) -> None:
    conversation = store.load(find_conversation(store, arguments.conversation))
    clean = _cleaner()
    if conversation.system:
        sys.stdout.write(f"── system\n{clean(conversation.system)}\n\n")
    for message in conversation.path():
        moment = f"{message.created.astimezone():%Y-%m-%d %H:%M}"
        number, count = conversation.branch(message.id)
        branch = f" · {number}/{count}" if count > 1 else ""
        partial = " · stopped" if message.partial else ""
        sys.stdout.write(f"── {_ROLES.get(message.role, message.role)} · {moment}{branch}{partial}\n")
        sys.stdout.write(f"{clean(message.content)}\n\n")


def _search(store: ConversationStore, arguments: argparse.Namespace) -> None:
    hits = store.search(" ".join(arguments.words), limit=arguments.limit)
    if arguments.json:
        _print_json([
            {
                "conversation": hit.conversation.id,
                "title": hit.conversation.title,
                "message_id": hit.message_id,
                "role": hit.role,
                "excerpt": hit.excerpt,
            }
            for hit in hits
        ])  # fmt: skip
        return
    length = short_length([summary.id for summary in store.list()])
    for hit in hits:
        title = one_line(hit.conversation.title, limit=40)
        who = _ROLES.get(hit.role, hit.role)
        sys.stdout.write(f"{hit.conversation.id[:length]}  {title}  {who}: {one_line(hit.excerpt)}\n")


def _export(store: ConversationStore, arguments: argparse.Namespace) -> None:

    from llmmagic.core.chat.export import export

    conversation = store.load(find_conversation(store, arguments.conversation))
    text = export(conversation, arguments.format)
    if not text:
        sys.stderr.write("llmchat: there is no finished reply in this conversation yet\n")
    if arguments.output is None:
        sys.stdout.write(_cleaner()(text))
        return
    try:
        arguments.output.write_text(text, encoding="utf-8")
    except OSError as err:
        raise StorageError(f"{arguments.output} cannot be written: {err.strerror}.") from err


def _delete(store: ConversationStore, arguments: argparse.Namespace) -> None:
    id_ = find_conversation(store, arguments.conversation)
    store.delete(id_)
    sys.stdout.write(f"Deleted. To bring it back: llmchat restore {id_}\n")


def _restore(store: ConversationStore, arguments: argparse.Namespace) -> None:
    store.restore(arguments.conversation)


def _path(arguments: argparse.Namespace) -> None:
    from llmmagic.core.chat.store import FILE_NAME

    places = {
        "conversations": data_dir() / FILE_NAME,
        "config": config_path(),
        "data": data_dir(),
        "cache": cache_dir(),
    }
    sys.stdout.write(f"{places[arguments.place]}\n")


def _completion(arguments: argparse.Namespace) -> None:
    from llmmagic_tui.completion import completion_script

    sys.stdout.write(completion_script(arguments.shell))


def _cleaner() -> Callable[[str], str]:
    """What text goes through before it is printed: a terminal obeys what a file just keeps."""
    return strip_controls if sys.stdout.isatty() else str


def _print_json(value: Any) -> None:
    # ASCII on a terminal: escaped there is whatever it would obey.
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=sys.stdout.isatty()) + "\n")


_STORE_COMMANDS: dict[str, Callable[[ConversationStore, argparse.Namespace], None]] = {
    "list": _list,
    "show": _show,
    "search": _search,
    "export": _export,
    "delete": _delete,
    "restore": _restore,
}
_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {"path": _path, "completion": _completion}
