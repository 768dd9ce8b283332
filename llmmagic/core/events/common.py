"""What any operation may say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProgressUnit = Literal["bytes", "tensors", "rows", "tokens", "steps"]
NoticeLevel = Literal["info", "warning"]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know that is no failure.

    Attributes:
        text: One sentence.
        level: ``warning`` when the user may want to act.
        topic: A stable short name (``"dtype"``, ``"prompt-prefix"``), for tests and for overriding by name.
    """

    text: str
    level: NoticeLevel = "info"
    topic: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The operation was stopped before it had a result; the session is as it was before."""

    operation: str
