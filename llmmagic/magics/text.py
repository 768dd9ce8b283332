"""Cards and replies as plain text: for scripts, logs, and the ``text/plain`` of a saved notebook."""

from __future__ import annotations

from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic.magics.curve import sparkline
from llmmagic.magics.tokens import tokens_text
from llmmagic.magics.views.card import Answers, Bar, Card, Note
from llmmagic.magics.views.reply import ReplyCard


def card_text(card: Card) -> str:
    """A card, a fact a line."""
    lines = [one_line(card.title)]
    lines += [bar_text(bar) for bar in card.bars]
    rows = list(card.facts)
    if card.curve is not None:
        rows.append(("Loss curve", sparkline(card.curve)))
    width = max((len(name) for name, _ in rows), default=0)
    lines += [f"  {one_line(name):<{width}}  {one_line(value)}" for name, value in rows]
    lines += [note_text(note) for note in card.notes]
    for answers in card.answers:
        lines += answers_text(answers)
    lines += tokens_text(card.tokens)
    return "\n".join(lines)


def answers_text(answers: Answers) -> list[str]:
    """What was answered to a sample prompt, an answer a line."""
    width = max(len(when) for when, _ in answers.given)
    return [
        f"  {one_line(answers.prompt)}",
        *(f"    {when:<{width}}  {one_line(text)}" for when, text in answers.given),
    ]


def reply_text(card: ReplyCard) -> str:
    """A reply with what stands around it."""
    parts = [note_text(note) for note in card.notes]
    parts.append(strip_controls(card.text).strip() or ("" if card.running else "The reply is empty."))
    if below := card.footer or card.status:
        parts.append(f"[{one_line(below)}]")
    return "\n".join(part for part in parts if part)


def bar_text(bar: Bar) -> str:
    """A bar as one line of figures."""
    percent = "" if bar.done is None else f" {100 * bar.done:3.0f} %"
    return f"  {one_line(bar.label)}{percent}  {one_line(bar.text)}".rstrip()


def note_text(note: Note) -> str:
    """A note as one line."""
    return f"  {'Warning: ' if note.level == 'warning' else ''}{one_line(note.text)}"
