"""What looking at training data says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, Union

from llmmagic.core.events.common import Cancelled, Notice

FindingLevel = Literal["error", "warning"]
TokenKind = Literal["trained", "masked", "cut"]


@dataclass(frozen=True, slots=True)
class DataReport:
    """What was read.

    Attributes:
        source: Where from.
        rows: Rows that are trained on.
        format: ``"messages"``, ``"question/answer"``, ``"llama-2 text"``, ...
        columns: What each column was taken for: ``{"question": "prompt"}``.
        eval_rows: Rows held out for evaluation; 0 when there are none.
        longest_tokens: Length of the longest example.
        total_tokens: Tokens of all examples, after truncation.
        truncated_rows: Rows cut off at ``max_length``.
        trained_tokens: Tokens that the loss is taken on.
    """

    source: str
    rows: int
    format: str
    columns: dict[str, str]
    eval_rows: int = 0
    longest_tokens: int = 0
    total_tokens: int = 0
    truncated_rows: int = 0
    trained_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about training data that is wrong, or worth knowing.

    Attributes:
        name: A stable short name, by which it can be allowed: ``"empty-answer"``, ``"truncated"``.
        level: Training is refused on an ``error`` that is not allowed.
        text: One sentence, with figures.
        rows: The first rows it is about, counted from 1.
        allowed: The user knows and goes on.
    """

    name: str
    level: FindingLevel
    text: str
    rows: tuple[int, ...] = ()
    allowed: bool = False


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """One token of an example.

    Attributes:
        text: What it says; empty for all but the last of the tokens that make up one character.
        kind: ``trained`` if a loss is taken on it, ``masked`` if it is only read, ``cut`` if ``max_length`` leaves it
            out.
        special: Whether it is one of the tokenizer's special tokens.
    """

    text: str
    kind: TokenKind
    special: bool = False


@dataclass(frozen=True, slots=True)
class RowView:
    """A row as the model gets to see it: several views where a conversation is split."""

    row: int
    tokens: tuple[TokenPiece, ...]


@dataclass(frozen=True, slots=True)
class PrepareProgress:
    """Data is being read, formatted and tokenised."""

    done: int
    total: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class DataInspected:
    """Everything there is to know about training data before it is trained on.

    Attributes:
        report: Rows, format, mapping, tokens.
        findings: Errors first.
        views: Some rows, token by token.
        rows: Rows that were read.
        max_length: Most tokens of an example.
        examples: How many examples the rows became.
        masked_tokens: Tokens that are read only.
        cut_tokens: Tokens that ``max_length`` leaves out.
        end_labelled: Examples that teach the model to end its reply.
        most_bos: The most BOS tokens that an example begins with; more than 1 is an error.
        duplicate_rows: Rows that occurred before.
        empty_rows: Rows without a question, an answer or a text.
        longest_rows: (row, tokens before truncation), longest first.
        checked_prompts: Prompts that were compared with what the chat sends.
        identical_prompts: How many of them are the same, token for token.
    """

    report: DataReport
    findings: tuple[Finding, ...]
    views: tuple[RowView, ...]
    rows: int
    max_length: int
    examples: int
    masked_tokens: int
    cut_tokens: int
    end_labelled: int
    most_bos: int
    duplicate_rows: int
    empty_rows: int
    longest_rows: tuple[tuple[int, int], ...]
    checked_prompts: int
    identical_prompts: int


DataEvent: TypeAlias = Union[Notice, Cancelled, PrepareProgress, DataInspected]
