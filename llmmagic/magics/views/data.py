"""Training data before it is trained on: what was read, what of it is learnt, and what is wrong with it."""

from __future__ import annotations

from typing_extensions import assert_never

from llmmagic.core.events import (
    Cancelled,
    DataEvent,
    DataInspected,
    DataReport,
    Finding,
    Notice,
    PrepareProgress,
    RowView,
)
from llmmagic.magics.figures import count_text
from llmmagic.magics.views.card import STOPPING, Bar, Card, CardStatus, Note, Run, TokenRow

Facts = tuple[tuple[str, str], ...]

_HEAD_TOKENS, _TAIL_TOKENS = 360, 120
"""What is shown of a long row: its beginning and its end."""


class DataView:
    """Folds the events of a look at data.

    Attributes:
        inspected: The report, once it is there.
    """

    def __init__(self, source: str) -> None:
        """Begin.

        Args:
            source: What is looked at, for people.
        """
        self.inspected: DataInspected | None = None
        self._source = source
        self._prepare: PrepareProgress | None = None
        self._status: CardStatus = "running"
        self._notes: list[Note] = []
        self._stopping = False

    def on(self, event: DataEvent) -> None:
        """Take in an event."""
        match event:
            case Notice(text=text, level=level):
                self._notes.append(Note(text, level))
            case PrepareProgress():
                self._prepare = event
            case DataInspected():
                self.inspected = event
                self._status = "done" if not any(stops(finding) for finding in event.findings) else "failed"
            case Cancelled():
                self._status = "stopped"
                self._notes.append(Note("Stopped. The session is as it was."))
            case _:
                assert_never(event)

    def stopping(self) -> None:
        """An end was asked for."""
        self._stopping = True

    def failed(self) -> None:
        """The operation raised."""
        self._status = "failed"

    def card(self) -> Card:
        """What there is to see now."""
        if self.inspected is not None:
            return data_card(f"Data: {self._source}", self._status, self.inspected, tuple(self._notes))
        title = f"{'Reading' if self._status == 'running' else 'Did not read'} {self._source}"
        notes = (*self._notes, STOPPING) if self._stopping and self._status == "running" else tuple(self._notes)
        bars = (prepare_bar(self._prepare),) if self._status == "running" else ()
        return Card(title=title, status=self._status, bars=bars, notes=notes)


def data_card(title: str, status: CardStatus, inspected: DataInspected, notes: tuple[Note, ...] = ()) -> Card:
    """The whole report as a card.

    Args:
        title: What stands above it.
        status: How it looks.
        inspected: The report.
        notes: Further sentences, before the findings.

    Returns:
        The card, with its rows token by token.
    """
    return Card(
        title=title,
        status=status,
        facts=data_facts(inspected),
        notes=notes + finding_notes(inspected.findings),
        tokens=tuple(map(token_row, inspected.views)),
    )


def data_facts(inspected: DataInspected) -> Facts:
    """Everything about data, a line each."""
    report = inspected.report
    total = report.total_tokens
    longest = ", ".join(f"{tokens:,} tokens (row {row:,})" for row, tokens in inspected.longest_rows[:3])
    cut = f"{count_text(inspected.cut_tokens)} tokens ({percent(inspected.cut_tokens, total + inspected.cut_tokens)})"
    bos = "none" if inspected.most_bos == 0 else "once at the beginning of each"
    prompts = (
        f"{inspected.identical_prompts:,} of {inspected.checked_prompts:,} are token for token what the chat sends"
        if inspected.checked_prompts
        else "none: plain text has no question"
    )
    return (
        ("Rows", f"{inspected.rows:,} read, {report.rows:,} to train on, from {report.source}"),
        ("Columns", columns_text(report)),
        ("Tokens", f"{count_text(total)} in {inspected.examples:,} examples"),
        ("Trained on", f"{count_text(report.trained_tokens)} tokens ({percent(report.trained_tokens, total)})"),
        (
            "Masked",
            f"{count_text(inspected.masked_tokens)} tokens ({percent(inspected.masked_tokens, total)}): only read",
        ),
        ("Cut off", f"{cut} of {rows_text(report.truncated_rows)}, at max_length {inspected.max_length:,}"),
        ("Longest", longest),
        ("End token", f"learnt in {inspected.end_labelled:,} of {inspected.examples:,} examples"),
        ("BOS", bos if inspected.most_bos < 2 else f"up to {inspected.most_bos} times: doubled"),
        ("Prompts", prompts),
        ("Empty rows", f"{inspected.empty_rows:,}"),
        ("Duplicates", f"{inspected.duplicate_rows:,}"),
    )


def columns_text(report: DataReport) -> str:
    """What the columns were taken for: ``question/answer: question → prompt, answer → completion``."""
    return f"{report.format}: " + ", ".join(f"{column} → {part}" for column, part in report.columns.items())


def rows_text(count: int) -> str:
    """``1 row``, ``1,204 rows``."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def percent(part: int, whole: int) -> str:
    """A share as people read it: ``54 %``, ``0.3 %``, ``0 %``."""
    share = 100 * part / max(whole, 1)
    return f"{share:.0f} %" if share >= 9.95 or not part else f"{max(share, 0.1):.1f} %"


def stops(finding: Finding) -> bool:
    """Whether training is refused because of it."""
    return finding.level == "error" and not finding.allowed


def finding_notes(findings: tuple[Finding, ...]) -> tuple[Note, ...]:
    """What is wrong, with what follows from it."""
    notes = []
    for finding in findings:
        rows = f" First rows: {', '.join(map(str, finding.rows))}." if finding.rows else ""
        ending = ""
        if stops(finding):
            ending = f" Training is refused; --allow {finding.name} goes on all the same."
        elif finding.level == "error":
            ending = " Allowed."
        notes.append(Note(f"{finding.text}{rows}{ending}", "warning"))
    return tuple(notes) or (Note("Nothing is wrong with it."),)


def refusals(findings: tuple[Finding, ...]) -> tuple[Note, ...]:
    """Those findings for which training is refused; the others are said by notices."""
    errors = tuple(filter(stops, findings))
    return finding_notes(errors) if errors else ()


def prepare_bar(progress: PrepareProgress | None) -> Bar:
    """How far the rows are read and tokenised."""
    if progress is None:
        return Bar("Data", None)
    total, done = progress.total, progress.done
    text = f"{done:,} rows" if total is None else f"{done:,} of {total:,} rows"
    if progress.detail:
        text += f" · {progress.detail}"
    return Bar("Data", done / total if total else None, text)


def token_row(view: RowView) -> TokenRow:
    """A row as runs of tokens that look alike; the middle of a long row is left out."""
    pieces = list(view.tokens)
    left_out = len(pieces) - _HEAD_TOKENS - _TAIL_TOKENS
    gap = None
    if left_out > 0:
        pieces = pieces[:_HEAD_TOKENS] + pieces[-_TAIL_TOKENS:]
        gap = _HEAD_TOKENS
    runs: list[Run] = []
    for place, piece in enumerate(pieces):
        if place == gap:
            runs.append(Run(f" … {left_out:,} tokens … ", "gap"))
        last = runs[-1] if runs else None
        if last is not None and last.kind == piece.kind and not last.special and not piece.special:
            runs[-1] = Run(last.text + piece.text, piece.kind)
        else:
            runs.append(Run(piece.text, piece.kind, special=piece.special))
    return TokenRow(f"Row {view.row:,} · {len(view.tokens):,} tokens", tuple(runs))
