"""Trying again: with waits that grow and differ, so that many clients do not come back at the same moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TypeVar

from llmmagic.core.engines.openai.errors import TryAgain
from llmmagic.core.events import Notice
from llmmagic.core.operation import CancelToken

T = TypeVar("T")
ATTEMPTS = 5
_FIRST_S, _LONGEST_S = 0.5, 16.0
_MOST_PATIENCE_S = 120.0  # a server that wants us to wait longer is asked again by the user, not by us
_POLL_S = 0.05


def patiently(attempt: Callable[[], T], cancel: CancelToken) -> Generator[Notice, None, T]:
    """Do something until it works, or is not worth another try.

    Args:
        attempt: Raises `TryAgain` where it is.
        cancel: Heard while waiting.

    Yields:
        A notice before each further attempt.

    Returns:
        What the attempt returned.

    Raises:
        LLMMagicError: What the last attempt failed with.
        CancelledOperation: An end was asked for while waiting.
    """
    for number, wait_s in enumerate(_waits(), 2):
        try:
            return attempt()
        except TryAgain as err:
            wait_s = wait_s if err.after_s is None else err.after_s
            if number > ATTEMPTS or wait_s > _MOST_PATIENCE_S:
                raise err.error from err
            text = f"Trying again in {wait_s:.1f} s ({number} of {ATTEMPTS}): {err.error.message}"
        yield Notice(text, level="warning", topic="server-retry")
        _sleep(wait_s, cancel)
    raise AssertionError("the waits never end")


def _waits() -> Iterator[float]:
    wait_s = _FIRST_S
    while True:
        yield wait_s * random.uniform(0.5, 1.0)
        wait_s = min(2 * wait_s, _LONGEST_S)


def _sleep(seconds: float, cancel: CancelToken) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        cancel.check()
        time.sleep(min(left, _POLL_S))


def retry_after(value: str | None) -> float | None:
    """What a ``Retry-After`` header says (RFC 9110, section 10.2.3).

    Args:
        value: Seconds, or a date; ``None`` without the header.

    Returns:
        Seconds from now; ``None`` if it says nothing that can be understood.
    """
    if value is None:
        return None
    try:
        seconds = float(value)
        return max(seconds, 0.0) if isfinite(seconds) else None
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)
    return max((when - datetime.now(timezone.utc)).total_seconds(), 0.0)
