"""Rows of preferences, ratings and prompts: how they are counted, and what is wrong with them.

| finding | level | method | what it says |
| --- | --- | --- | --- |
| empty-answer | error | all | rows without a prompt or without an answer |
| same-answers | error | dpo | pairs of which the chosen and the rejected answer are the same |
| one-sided | error | kto | only good, or only bad ratings |
| prompt-mismatch | error | dpo, kto, grpo | prompts that the chat would tokenise differently |
| reward-failed | error | grpo | a reward function that fails on a probe |
| all-masked | warning | all | rows of which the length leaves no answer; they are left out |
| truncated | warning | dpo, kto | rows that ``max_length`` cuts off |
| duplicates | warning | all | rows that occur more than once |
| eval-overlap | warning | all | held-out rows that are trained on |
| constant-reward | warning | grpo | a reward function that gives everything on a probe the same |
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import DataFormatError
from llmmagic.core.events import DataReport, Finding, FindingLevel
from llmmagic.core.training.formats import EmptyRowError

if TYPE_CHECKING:
    import datasets

    from llmmagic.core.training.examples import ExampleMaker
    from llmmagic.core.training.llama2 import Message

ERRORS = ("empty-answer", "same-answers", "one-sided", "prompt-mismatch", "reward-failed")
WARNINGS = ("all-masked", "truncated", "duplicates", "eval-overlap", "constant-reward")
_NAMED_ROWS = 5
_CHECKED_PROMPTS = 64
_TEXTS = {
    "empty-answer": "of {rows} rows have no prompt or no answer.",
    "same-answers": "of {rows} pairs have the same answer as chosen and as rejected: nothing can be learnt from them.",
    "prompt-mismatch": "of {checked} prompts are not what the chat would send.",
    "all-masked": "of {rows} rows are left out: their length leaves no room for an answer.",
    "truncated": "of {rows} rows are cut off at max_length: no end is learnt.",
    "duplicates": "of {rows} rows occurred before.",
    "eval-overlap": "of {rows} rows are also trained on: their figures say little.",
}


@dataclass(frozen=True, slots=True)
class RowData:
    """Rows, ready to train on.

    Attributes:
        dataset: What the trainer reads.
        report: What it is.
        findings: What is wrong with it, errors first.
        digest: Of all that is trained on, in order.
        fingerprints: Of all rows.
    """

    dataset: datasets.Dataset
    report: DataReport
    findings: tuple[Finding, ...]
    digest: str
    fingerprints: frozenset[int]

    def require_sound(self) -> None:
        """Refuse to train on data with errors that are not allowed.

        Raises:
            DataFormatError: The first of them, with how to go on all the same.
        """
        for finding in self.findings:
            if finding.level == "error" and not finding.allowed:
                where = f" Row {finding.rows[0]} is the first." if finding.rows else ""
                raise DataFormatError(
                    f"{finding.text}{where}",
                    hint=f"Correct the data, or go on all the same: --allow {finding.name}.",
                )

    def found(self, *more: Finding) -> RowData:
        """The same with more findings."""
        findings = sorted((*self.findings, *more), key=lambda finding: finding.level != "error")
        return replace(self, findings=tuple(findings))


class RowCount:
    """Counts while rows are tokenised."""

    def __init__(self, allow: Sequence[str], known: frozenset[int]) -> None:
        self._allow = allow
        self._known = known
        self._rows: dict[str, list[int]] = {}
        self._seen: set[int] = set()
        self._digest = hashlib.blake2b(digest_size=16)
        self._checked = 0
        self.first_error: EmptyRowError | None = None
        self.kept = self.longest_tokens = self.total_tokens = self.trained_tokens = 0

    def found(self, name: str, row: int) -> None:
        """Something is wrong with a row."""
        self._rows.setdefault(name, []).append(row)

    def empty(self, row: int, err: EmptyRowError) -> None:
        """A row has nothing to learn from."""
        self.first_error = self.first_error or err
        self.found("empty-answer", row)

    def seen(self, row: int, *content: Any) -> None:
        """Hold a row against those before it, and against the training data."""
        fingerprint = hash(repr(content))
        if fingerprint in self._seen:
            self.found("duplicates", row)
        if fingerprint in self._known:
            self.found("eval-overlap", row)
        self._seen.add(fingerprint)

    def check_prompt(self, row: int, maker: ExampleMaker, messages: Sequence[Message], prompt_ids: list[int]) -> None:
        """Hold a prompt against what the chat itself sends, by its own way from messages to ids."""
        if self._checked >= _CHECKED_PROMPTS:
            return
        self._checked += 1
        if maker.chat_prompt(messages) != prompt_ids:
            self.found("prompt-mismatch", row)

    def keep(self, *parts: list[int], trained: int) -> None:
        """Count a row that is trained on.

        Args:
            *parts: Its ids.
            trained: Tokens of it that a loss is taken on.
        """
        self.kept += 1
        size = sum(map(len, parts))
        self.longest_tokens = max(self.longest_tokens, size)
        self.total_tokens += size
        self.trained_tokens += trained
        for ids in parts:
            self._digest.update(array("i", (len(ids), *ids)).tobytes())

    def data(
        self, dataset: datasets.Dataset, source: str, format_: str, columns: Mapping[str, str], rows: int
    ) -> RowData:
        """What was counted, with what was made.

        Args:
            dataset: For the trainer.
            source: Where the rows are from.
            format_: What they are.
            columns: What each column was taken for.
            rows: How many there were.

        Raises:
            EmptyRowError: No row was left, and this is why.
            DataFormatError: No row was left.
        """
        if not self.kept:
            if self.first_error is not None:
                raise self.first_error
            if "same-answers" not in self._rows:
                raise DataFormatError(
                    f"Nothing is left to learn from in {source}: its prompts leave no room for an answer.",
                    hint="Set a higher max_length.",
                )
        report = DataReport(
            source=source,
            rows=self.kept,
            format=format_,
            columns=dict(columns),
            longest_tokens=self.longest_tokens,
            total_tokens=self.total_tokens,
            truncated_rows=len(self._rows.get("truncated", ())),
            trained_tokens=self.trained_tokens,
        )
        return RowData(dataset, report, self._findings(rows), self._digest.hexdigest(), frozenset(self._seen))

    def _findings(self, rows: int) -> tuple[Finding, ...]:
        found = []
        for name in (*ERRORS, *WARNINGS):
            if name in self._rows:
                text = f"{len(self._rows[name])} {_TEXTS[name].format(rows=rows, checked=self._checked)}"
                found.append(finding(name, text, self._allow, self._rows[name]))
        return tuple(found)


def finding(name: str, text: str, allow: Sequence[str], rows: Sequence[int] = ()) -> Finding:
    """A finding of one of the names in this module."""
    level: FindingLevel = "error" if name in ERRORS else "warning"
    return Finding(name, level, text, tuple(rows[:_NAMED_ROWS]), allowed=name in allow)
