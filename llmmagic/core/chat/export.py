"""Conversations as files: Markdown to read, JSON with everything, JSON lines to train on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Literal

from llmmagic.core.chat.feedback import chat_messages
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.chat.words import title_of
from llmmagic.core.errors import ConfigError, did_you_mean

ExportFormat = Literal["md", "json", "jsonl"]
_SPEAKERS = {"user": "You", "assistant": "Assistant", "tool": "Tool"}


def export(conversation: Conversation, format: ExportFormat) -> str:
    """Write a conversation as text.

    Args:
        conversation: What to write.
        format: ``md``: the active path, to read. ``json``: all branches with all that is known. ``jsonl``: a line
            ``{"messages": [...]}`` for each branch that ends with a finished reply, as ``%%llm_train`` reads it.

    Returns:
        The text; it ends with a line break unless it is empty.

    Raises:
        ConfigError: Another format.
    """
    if format not in _WRITERS:
        hint = did_you_mean(format, _WRITERS)
        raise ConfigError(f"format must be one of {', '.join(_WRITERS)}, got {format!r}.", hint=hint)
    return _WRITERS[format](conversation)


def _markdown(conversation: Conversation) -> str:
    lines = [f"# {title_of(conversation)}", "", f"*{conversation.head.created:%Y-%m-%d %H:%M} UTC*", ""]
    if conversation.system:
        lines += ["## System prompt", "", conversation.system.strip(), ""]
    for message in conversation.path():
        speaker = _SPEAKERS[message.role]
        if message.model_id:
            speaker += f" ({message.model_id})"
        lines += [f"## {speaker}", "", message.content.strip(), ""]
        if message.partial:
            lines += ["*(stopped)*", ""]
    return "\n".join(lines)


def _json(conversation: Conversation) -> str:
    whole = {**asdict(conversation.head), "messages": [asdict(message) for message in conversation]}
    return json.dumps(whole, ensure_ascii=False, indent=2, default=datetime.isoformat) + "\n"


def _json_lines(conversation: Conversation) -> str:
    parents = {message.parent for message in conversation}
    lines = []
    for message in conversation:
        if message.role == "assistant" and message.id not in parents and message.content and not message.partial:
            row = {"messages": chat_messages(conversation, message.id)}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return "".join(lines)


_WRITERS: Mapping[str, Callable[[Conversation], str]] = {"md": _markdown, "json": _json, "jsonl": _json_lines}
