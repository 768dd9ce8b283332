"""A conversation as static HTML and text: what a saved notebook shows of a panel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmmagic.core.chat.words import FINISH_NOTES, title_of
from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic.magics.html import escape
from llmmagic.magics.markdown import markdown_html

if TYPE_CHECKING:
    from llmmagic.core.chat.messages import Message
    from llmmagic.core.chat.tree import Conversation

_MOST = 100  # messages; a notebook is no archive, the store has all of them
_MOST_CHARACTERS = 20_000  # of a message
_FRAME = "font-size:13px;line-height:1.5;max-width:860px;margin:4px 0;overflow-wrap:anywhere"
_SAID = "margin:6px 0;padding:6px 12px;border-radius:10px;background:rgba(128,128,128,.12)"
_ASKED = "margin:6px 0;padding:6px 12px;border-radius:10px;background:rgba(59,130,246,.12);white-space:pre-wrap"
_SMALL = "font-size:12px;opacity:.75"


def transcript_bundle(talk: Conversation, css_class: str) -> dict[str, str]:
    """The conversation as it is now.

    Args:
        talk: Which one.
        css_class: By which the panel finds it.

    Returns:
        HTML without scripts and styles of the page, and plain text.
    """
    path = talk.path()
    shown = path[-_MOST:]
    heading = f"Chat: {one_line(title_of(talk), 120)}" if path else "Chat panel: nothing has been said yet."
    earlier = f"{len(path) - len(shown):,} earlier messages are not shown." if len(path) > len(shown) else ""
    parts = [f'<div style="font-weight:600">{escape(heading)}</div>']
    if earlier:
        parts.append(f'<div style="{_SMALL}">{earlier}</div>')
    parts += [_html(message) for message in shown]
    lines = [heading, *([earlier] if earlier else []), *(_text(message) for message in shown)]
    return {
        "text/html": f'<div class="{css_class}" style="{_FRAME}">{"".join(parts)}</div>',
        "text/plain": "\n\n".join(lines),
    }


def _html(message: Message) -> str:
    text = _cut(message)
    if message.role != "assistant":
        return f'<div style="{_ASKED}"><strong>{_name(message)}</strong>\n{escape(text)}</div>'
    note = FINISH_NOTES.get(message.finish_reason, "") if message.finish_reason else ""
    below = f'<div style="{_SMALL}">— {note}</div>' if note else ""
    return f'<div style="{_SAID}"><strong>{escape(_name(message))}</strong>{markdown_html(text)}{below}</div>'


def _text(message: Message) -> str:
    note = FINISH_NOTES.get(message.finish_reason, "") if message.finish_reason else ""
    return f"{_name(message)}: {_cut(message)}" + (f"\n— {note}" if note else "")


def _name(message: Message) -> str:
    if message.role == "assistant":
        return one_line(message.model_id or "Assistant", 60)
    return "You" if message.role == "user" else message.role.capitalize()


def _cut(message: Message) -> str:
    text = strip_controls(message.content).strip()
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"
