"""What the examples of a data set have in common, and what is wrong with them.

| finding | level | what it says |
| --- | --- | --- |
| empty-answer | error | rows without a question, an answer or a text |
| no-end-label | error | no example teaches the model to end its reply |
| doubled-bos | error | examples that begin with two BOS tokens |
| prompt-mismatch | error | prompts that the chat would tokenise differently |
| all-masked | warning | rows of which ``max_length`` leaves no answer; they are left out |
| truncated | warning | rows that ``max_length`` cuts off: their end is not learnt |
| special-tokens | warning | rows whose text contains special tokens |
| duplicates | warning | rows that occur more than once |
| eval-overlap | warning | held-out rows that are trained on |
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections.abc import Sequence

from llmmagic.core.errors import ConfigError, did_you_mean
from llmmagic.core.events import Finding, FindingLevel
from llmmagic.core.training.examples import MASKED, Example, ExampleMaker
from llmmagic.core.training.formats import EmptyRowError, Sample

ERRORS = ("empty-answer", "no-end-label", "doubled-bos", "prompt-mismatch")
WARNINGS = ("all-masked", "truncated", "special-tokens", "duplicates", "eval-overlap")
FINDINGS = ERRORS + WARNINGS
MEMORY = "memory"
"""No finding about data, but allowed like one: a run that needs more memory than is free."""

_NAMED_ROWS = 5
_LONGEST_ROWS = 5
_CHECKED_PROMPTS = 64


class Census:
    """Counts while a table is tokenised; keeps no tokens."""

    def __init__(self, maker: ExampleMaker) -> None:
        self._maker = maker
        self._rows: dict[str, list[int]] = {name: [] for name in FINDINGS}
        self._seen: set[int] = set()
        self._longest: list[tuple[int, int]] = []
        self._digest = hashlib.blake2b(digest_size=16)
        self.first_error: EmptyRowError | None = None
        self.examples = 0
        self.longest_tokens = 0
        self.total_tokens = 0
        self.trained_tokens = 0
        self.cut_tokens = 0
        self.end_labelled = 0
        self.most_bos = 0
        self.checked_prompts = 0
        self.identical_prompts = 0

    def rows(self, name: str) -> Sequence[int]:
        """All rows that a finding is about."""
        return self._rows[name]

    @property
    def longest_rows(self) -> tuple[tuple[int, int], ...]:
        """(row, tokens before truncation), longest first."""
        return tuple((row, tokens) for tokens, row in sorted(self._longest, reverse=True))

    @property
    def fingerprints(self) -> frozenset[int]:
        """Of all rows, to find them in other data."""
        return frozenset(self._seen)

    @property
    def digest(self) -> str:
        """Of all ids and labels, in order: the same in every process."""
        return self._digest.hexdigest()

    def add_empty(self, row: int, err: EmptyRowError) -> None:
        """Count a row that has nothing to learn from."""
        self.first_error = self.first_error or err
        self._rows["empty-answer"].append(row)

    def add(self, sample: Sample, examples: list[Example], known: frozenset[int]) -> None:
        """Count a row.

        Args:
            sample: What it says.
            examples: What became of it.
            known: Fingerprints of the training data, if this is held-out data.
        """
        row = sample.row
        fingerprint = hash((sample.text, *((m["role"], m["content"]) for m in sample.messages)))
        if fingerprint in self._seen:
            self._rows["duplicates"].append(row)
        if fingerprint in known:
            self._rows["eval-overlap"].append(row)
        self._seen.add(fingerprint)
        if not examples:
            self._rows["all-masked"].append(row)
        if self._maker.has_special(sample):
            self._rows["special-tokens"].append(row)
        if any(example.cut_tokens for example in examples):
            self._rows["truncated"].append(row)
        if any(self._count(example) > 1 for example in examples):
            self._rows["doubled-bos"].append(row)
        length = max((len(e.input_ids) + e.cut_tokens for e in examples), default=0)
        heapq.heappush(self._longest, (length, row))
        if len(self._longest) > _LONGEST_ROWS:
            heapq.heappop(self._longest)
        self._compare(sample, examples)

    def _count(self, example: Example) -> int:
        """Sum up one example.

        Returns:
            How many BOS tokens it begins with.
        """
        ids = example.input_ids
        self._digest.update(array("i", (len(ids), *ids, *example.labels)).tobytes())
        self.examples += 1
        self.longest_tokens = max(self.longest_tokens, len(ids))
        self.total_tokens += len(ids)
        self.trained_tokens += example.trained_tokens
        self.cut_tokens += example.cut_tokens
        last = next((label for label in reversed(example.labels) if label != MASKED), MASKED)
        self.end_labelled += not example.cut_tokens and last in self._maker.end_ids
        bos = 0
        while bos < len(ids) and ids[bos] == self._maker.bos_id:
            bos += 1
        self.most_bos = max(self.most_bos, bos)
        return bos

    def _compare(self, sample: Sample, examples: list[Example]) -> None:
        """Hold an example against what the chat itself sends, by its own way from messages to ids."""
        if self.checked_prompts >= _CHECKED_PROMPTS or not sample.messages or not examples:
            return
        prompt = self._maker.chat_prompt(sample.messages[:-1])
        ids = examples[-1].input_ids
        self.checked_prompts += 1
        same = ids[: len(prompt)] == prompt[: len(ids)]
        self.identical_prompts += same
        if not same:
            self._rows["prompt-mismatch"].append(sample.row)

    def findings(self, rows: int, allow: Sequence[str]) -> tuple[Finding, ...]:
        """What is wrong, errors first.

        Args:
            rows: How many there are in all.
            allow: Names of findings that the user knows of.

        Returns:
            The findings.
        """
        share = self.cut_tokens / max(self.total_tokens + self.cut_tokens, 1)
        texts = {
            "empty-answer": "of {rows} rows have no question, no answer or no text.",
            "doubled-bos": "of {rows} rows begin with two BOS tokens.",
            "prompt-mismatch": f"of {self.checked_prompts} prompts are not what the chat would send.",
            "all-masked": "of {rows} rows are left out: max_length cuts off their whole answer.",
            "truncated": f"of {{rows}} rows are cut off at max_length ({share:.1%} of all tokens): no end is learnt.",
            "special-tokens": "of {rows} rows have special tokens in their text, which the model takes for real ones.",
            "duplicates": "of {rows} rows occurred before.",
            "eval-overlap": "of {rows} rows are also trained on: their loss says little.",
        }
        found = [
            self._finding(name, f"{len(self._rows[name])} {texts[name].format(rows=rows)}", allow)
            for name in FINDINGS
            if self._rows[name]
        ]
        if self.examples and not self.end_labelled:
            why = "every row is cut off" if len(self._rows["truncated"]) else "the tokenizer has no end token"
            found.append(self._finding("no-end-label", f"No example teaches the model to end its reply: {why}.", allow))
        return tuple(sorted(found, key=lambda finding: finding.level != "error"))

    def _finding(self, name: str, text: str, allow: Sequence[str]) -> Finding:
        level: FindingLevel = "error" if name in ERRORS else "warning"
        return Finding(name, level, text, tuple(self._rows[name][:_NAMED_ROWS]), allowed=name in allow)


def check_allowed(allow: Sequence[str], known: Sequence[str] = FINDINGS) -> None:
    """Refuse names of findings that do not exist.

    Args:
        allow: What the user named.
        known: What can be found in the data of the method.

    Raises:
        ConfigError: Such a name.
    """
    for name in allow:
        if name not in (*known, MEMORY):
            raise ConfigError(
                f"There is no finding {name!r} to allow.",
                hint=did_you_mean(name, (*known, MEMORY)) or f"Known: {', '.join((*known, MEMORY))}.",
            )
