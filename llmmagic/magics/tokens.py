"""Rows token by token, as HTML and as plain text: never by colour alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from llmmagic.core.sanitize import strip_controls
from llmmagic.magics.views.card import Run, RunKind, TokenRow

# The tints read on white and on black; what they say is also said by a line under, through or around the text.
_STYLE: dict[RunKind, str] = {
    "trained": "background:rgba(34,160,107,.22);border-bottom:2px solid #22a06b",
    "masked": "opacity:.7",
    "cut": "background:rgba(229,72,77,.16);text-decoration:line-through;text-decoration-color:#e5484d",
    "gap": "opacity:.7;font-style:italic",
}
_SPECIAL = "border:1px solid #8a8a8a;border-radius:3px;padding:0 1px"
_LEGEND: tuple[tuple[str, RunKind, bool], ...] = (
    ("trained on", "trained", False),
    ("masked: only read", "masked", False),
    ("cut off by max_length", "cut", False),
    ("special token", "masked", True),
)
# Ways to write it down where there is only text.
_MARKS: dict[RunKind, tuple[str, str]] = {
    "trained": ("[+", "+]"),
    "masked": ("", ""),
    "cut": ("[-", "-]"),
    "gap": ("", ""),
}
PLAIN_LEGEND = "[+trained on+]  masked: only read  [-cut off by max_length-]  `special token`"


def tokens_html(rows: tuple[TokenRow, ...], escape: Callable[[str], str]) -> str:
    """Rows of tokens with a legend.

    Args:
        rows: What to show.
        escape: Makes untrusted text safe for HTML.

    Returns:
        HTML with inline styles only; empty without rows.
    """
    if not rows:
        return ""
    legend = " &nbsp; ".join(_span(Run(text, kind, special=special), escape) for text, kind, special in _LEGEND)
    parts = [f'<div style="font-size:12px;margin-top:8px">{legend}</div>']
    for row in rows:
        runs = "".join(_span(run, escape) for run in row.runs)
        parts.append(
            f'<div style="font-size:12px;opacity:.75;margin-top:8px">{escape(row.title)}</div>'
            '<div style="font-family:monospace;font-size:12px;line-height:1.7;white-space:pre-wrap;'
            'max-height:320px;overflow-y:auto;border-left:2px solid rgba(128,128,128,.35);padding-left:8px">'
            f"{runs}</div>"
        )
    return "".join(parts)


def tokens_text(rows: tuple[TokenRow, ...]) -> list[str]:
    """The same as lines of plain text; none without rows."""
    if not rows:
        return []
    lines = ["", f"  {PLAIN_LEGEND}"]
    for row in rows:
        lines += ["", f"  {row.title}"]
        lines += [f"    {line}".rstrip() for line in _marked(row.runs).rstrip("\n").split("\n")]
    return lines


def visible(run: Run) -> str:
    """The text of a run, safe to show; a special token that is written with line breaks stays on its line."""
    text = strip_controls(run.text)
    return text.replace("\n", "⏎") if run.special else text


def _span(run: Run, escape: Callable[[str], str]) -> str:
    style = _STYLE[run.kind] + (f";{_SPECIAL}" if run.special else "")
    # A line break is part of what is learnt: it is shown where it stands.
    text = escape(visible(run)).replace("\n", "⏎\n")
    return f'<span style="{style}">{text}</span>'


def _marked(runs: tuple[Run, ...]) -> str:
    parts = []
    for kind, group in groupby(runs, key=lambda run: run.kind):
        before, after = _MARKS[kind]
        parts += [before, *(f"`{visible(run)}`" if run.special else visible(run) for run in group), after]
    return "".join(parts)
