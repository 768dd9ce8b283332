"""Conversations, windows and settings as the panel draws them: in words, so that JavaScript decides nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmmagic.core.chat.words import FINISH_NOTES, LEGEND, title_of, view_window
from llmmagic.core.config import GenerationConfig, replace_known
from llmmagic.core.errors import ConfigError
from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic.magics.markdown import markdown_html
from llmmagic.magics.panel.updates import MessageView, SettingView, TalkEntry, TalkView, Window

if TYPE_CHECKING:
    from llmmagic.core.chat.messages import Message
    from llmmagic.core.chat.records import Summary
    from llmmagic.core.chat.tree import Conversation
    from llmmagic.core.events import WindowReport

_MOST_MARKDOWN = 200_000  # characters of a reply that are rendered; more is shown as plain text
_KEPT = 2_000  # rendered replies
_NAMES = {"user": "You", "assistant": "Assistant", "tool": "Tool", "system": "System"}
_CAN_GO_ON = ("cancelled", "length")

_SETTINGS: dict[str, tuple[type[int] | type[float], str, str]] = {
    "max_new_tokens": (int, "512", "Most tokens of a reply; the window keeps as many free."),
    "temperature": (float, "the model's", "0 always takes the most likely token."),
    "top_p": (float, "the model's", "Only the likeliest tokens that together have this share, between 0 and 1."),
    "top_k": (int, "the model's", "Only so many of the likeliest tokens; 0 is all."),
    "min_p": (float, "the model's", "Leave out what is less likely than this share of the likeliest token."),
    "repetition_penalty": (float, "the model's", "Above 1 makes what was said already less likely."),
    "seed": (int, "another each time", "The same seed gives the same reply."),
}


class Drawn:
    """Messages as views; the Markdown of a reply is rendered once, for all panels."""

    def __init__(self) -> None:
        self._html: OrderedDict[str, tuple[str, str]] = OrderedDict()  # id -> text, its HTML

    def message(self, talk: Conversation, message: Message, *, live: bool) -> MessageView:
        """One message.

        Args:
            talk: What it belongs to.
            message: Which one.
            live: It is being written: its text is streamed, not drawn.
        """
        is_reply = message.role == "assistant"
        text = "" if live else strip_controls(message.content)
        facts = [message.created.astimezone().strftime("%H:%M")]
        if message.token_count is not None:
            facts.insert(0, f"{message.token_count:,} tokens")
        name = _NAMES[message.role]
        if is_reply and message.model_id:
            name = one_line(message.model_id, 60)
        return MessageView(
            id=message.id,
            role=message.role,
            name=name,
            text=text,
            html=self._reply_html(message.id, text) if is_reply and text else "",
            note=FINISH_NOTES.get(message.finish_reason, "") if message.finish_reason and not live else "",
            better=strip_controls(message.better or ""),
            facts=" · ".join(facts),
            pinned=message.pinned,
            rating=message.rating or 0,
            branch=talk.branch(message.id),
            actions=() if live else _actions(talk, message),
        )

    def _reply_html(self, id: str, text: str) -> str:
        known = self._html.get(id)
        if known is None or known[0] != text:
            # What is longer is no reply that anybody reads; as Markdown it would hold up the kernel for seconds.
            html = markdown_html(text, highlight=True) if len(text) <= _MOST_MARKDOWN else ""
            known = self._html[id] = (text, html)
            if len(self._html) > _KEPT:
                self._html.popitem(last=False)
        return known[1]


def _actions(talk: Conversation, message: Message) -> tuple[str, ...]:
    if message.role == "user":
        return ("copy", "edit", "pin", "again")
    if message.role != "assistant":
        return ("copy", "pin")
    go_on = message.finish_reason in _CAN_GO_ON and message.id == talk.leaf
    return ("copy", "pin", "again", *(("continue",) if go_on else ()), "good", "bad", "better")


def draw_talk(name: str, talk: Conversation) -> TalkView:
    """The conversation without its messages."""
    return TalkView(talk.id, name, one_line(title_of(talk), 120), strip_controls(talk.system or ""))


def draw_window(report: WindowReport, *, sent: bool, error: str = "") -> Window:
    """A window with its figures.

    Args:
        report: Exact.
        sent: They are those of a prompt that was sent.
        error: Why the draft cannot be sent.
    """
    view = view_window(report, sent=sent)
    return Window(
        segments=tuple((each.kind, each.tokens, each.label or each.kind) for each in report.segments if each.tokens),
        legend=tuple((kind, LEGEND[kind], tokens) for kind, tokens in view.sums.items()),
        figures=view.figures,
        forecast="" if error else view.forecast,
        error=error,
        out=tuple(view.out),
        leaving=tuple(view.leaving),
        cut=view.cut,
    )


def draw_settings(generation: GenerationConfig) -> tuple[SettingView, ...]:
    """The settings that can be changed in the panel."""
    views = []
    for name, (_, default, help_text) in _SETTINGS.items():
        value = getattr(generation, name)
        views.append(SettingView(name, "" if value is None else f"{value}", default, help_text))
    return tuple(views)


def read_settings(values: dict[str, str]) -> GenerationConfig:
    """Settings as they were typed.

    Raises:
        ConfigError: An unknown name, no number, or a number that is not allowed.
    """
    read: dict[str, int | float] = {}
    for name, text in values.items():
        if not text.strip():
            continue
        kind = _SETTINGS[name][0] if name in _SETTINGS else float
        try:
            read[name] = kind(text)
        except ValueError:
            needed = "a whole number" if kind is int else "a number"
            raise ConfigError(f"{name} must be {needed}, got {text.strip()[:40]!r}.") from None
    config: GenerationConfig = replace_known(GenerationConfig, read)
    return config


def draw_entries(past: Sequence[Summary], here: Sequence[Conversation], shown: str) -> tuple[TalkEntry, ...]:
    """The conversations that can be opened.

    Args:
        past: Those of the store, last changed first.
        here: Those of the session; the ones that are not stored come first.
        shown: Id of the one on screen.
    """
    stored = {summary.id for summary in past}
    rows = [(talk.id, title_of(talk), "", talk.head.updated) for talk in here if talk.id not in stored and talk.leaf]
    rows += [(summary.id, summary.title, summary.preview, summary.updated) for summary in past]
    return tuple(
        TalkEntry(id, one_line(title, 120), preview, when.astimezone().strftime("%Y-%m-%d %H:%M"), id == shown)
        for id, title, preview, when in rows
    )
