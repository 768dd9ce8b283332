"""Cards and replies as HTML.

Only inline styles: a ``<style>`` element would reach the whole page, and is stripped where a notebook is not trusted.
Colours come from the page (``currentColor``) or read well on white and on black.
"""

from __future__ import annotations

from html import escape as _escape

from llmmagic.core.sanitize import strip_controls
from llmmagic.magics.curve import curve_svg
from llmmagic.magics.markdown import markdown_html
from llmmagic.magics.tokens import tokens_html
from llmmagic.magics.views.card import Answers, Bar, Card, CardStatus, Note
from llmmagic.magics.views.reply import ReplyCard

_FRAME = (
    "font-size:13px;line-height:1.5;max-width:760px;margin:4px 0;padding:8px 14px 10px;"
    "border:1px solid rgba(128,128,128,.35);border-radius:8px;overflow-wrap:anywhere;white-space:normal"
)
_DOT: dict[CardStatus, str] = {"running": "#3b82f6", "done": "#22a06b", "stopped": "#e8710a", "failed": "#e5484d"}
_CELL = "border:none;background:none;text-align:left;vertical-align:top;padding:1px 0;white-space:normal;max-width:none"
_SMALL = "font-size:12px;opacity:.75;margin-top:4px"


def escape(text: str) -> str:
    """Untrusted text for an element or an attribute."""
    return _escape(strip_controls(text))


def card_html(card: Card) -> str:
    """A card.

    Args:
        card: What there is to see.

    Returns:
        One ``<div>``.
    """
    dot = f'<span style="color:{_DOT[card.status]}">●</span>'
    parts = [f'<div style="font-weight:600;font-size:14px">{dot} {escape(card.title)}</div>']
    parts += [_bar(bar) for bar in card.bars]
    if card.facts:
        parts.append(_table(card.facts))
    parts.append(_curve(card))
    parts += [_note(note) for note in card.notes]
    parts += [_answers(answers) for answers in card.answers]
    parts.append(tokens_html(card.tokens, escape))
    if card.details:
        parts.append(
            f'<details style="margin-top:4px"><summary style="cursor:pointer;{_SMALL}">Settings</summary>'
            f"{_table(card.details)}</details>"
        )
    return f'<div class="llmmagic-card" style="{_FRAME}">{"".join(parts)}</div>'


def reply_html(card: ReplyCard) -> str:
    """A reply with what stands around it.

    Args:
        card: What there is to see.

    Returns:
        One ``<div>``.
    """
    parts = [_note(note) for note in card.notes]
    if card.text.strip():
        parts.append(f'<div style="overflow-wrap:anywhere">{markdown_html(card.text)}</div>')
    elif not card.running:
        parts.append('<div style="opacity:.75"><em>The reply is empty.</em></div>')
    below = card.footer or card.status or ("…" if card.running else "")
    if below:
        parts.append(f'<div style="{_SMALL}">{escape(below)}</div>')
    return f'<div class="llmmagic-reply" style="max-width:860px">{"".join(parts)}</div>'


def _curve(card: Card) -> str:
    """The loss so far; of what has ended as a picture, for which matplotlib is imported."""
    if card.curve is None:
        return ""
    if card.status == "running":
        return f'<div style="margin-top:6px">{curve_svg(card.curve)}</div>'
    from llmmagic.magics.plot import curve_image

    return f'<div style="margin-top:6px">{curve_image(card.curve)}</div>'


def _bar(bar: Bar) -> str:
    percent = 0 if bar.done is None else round(100 * min(max(bar.done, 0.0), 1.0), 1)
    colour = _DOT["done"] if bar.done == 1 else _DOT["running"]
    # Without a total there is no end to move towards: a half-tone bar says "working".
    fill = (
        f"width:{percent}%;background:{colour}"
        if bar.done is not None
        else f"width:100%;background:{colour};opacity:.3"
    )
    value = "" if bar.done is None else f' aria-valuenow="{percent:g}"'
    return (
        '<div style="display:flex;align-items:center;gap:10px;margin:3px 0">'
        f'<div style="flex:0 0 84px">{escape(bar.label)}</div>'
        f'<div role="progressbar" aria-label="{escape(bar.label)}" aria-valuemin="0" aria-valuemax="100"{value}'
        ' style="flex:1 1 120px;height:8px;border-radius:4px;overflow:hidden;background:rgba(128,128,128,.28)">'
        f'<div style="height:100%;background:{colour};{fill}"></div></div>'
        f'<div style="flex:2 1 200px;opacity:.85;font-variant-numeric:tabular-nums">{escape(bar.text)}</div></div>'
    )


def _table(rows: tuple[tuple[str, str], ...]) -> str:
    body = "".join(
        f'<tr style="background:none"><td style="{_CELL};padding-right:16px;opacity:.7;white-space:nowrap">'
        f'{escape(name)}</td><td style="{_CELL};width:100%">{escape(value)}</td></tr>'
        for name, value in rows
    )
    return (
        # JupyterLab sets table-layout: fixed, in which the columns lie on each other
        '<table style="table-layout:auto;width:100%;margin:4px 0;border:none;border-collapse:collapse;font-size:13px;'
        'color:inherit">'
        f"<tbody>{body}</tbody></table>"
    )


def _answers(answers: Answers) -> str:
    """What was answered when: as text, not rendered, so that what changes is what the model writes."""
    return (
        f'<div style="margin-top:8px;font-weight:600">{escape(answers.prompt)}</div>'
        f'<div style="white-space:pre-wrap">{_table(answers.given)}</div>'
    )


def _note(note: Note) -> str:
    sign = "⚠ " if note.level == "warning" else ""
    style = "font-size:12px;margin-top:4px" if sign else _SMALL
    return f'<div style="{style}">{sign}{escape(note.text)}</div>'
