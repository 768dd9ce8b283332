"""Reading ahead in pieces that take a fraction of a second, whatever the model and the machine."""

from __future__ import annotations

import time
from collections.abc import Iterator

from llmmagic.core.operation import CancelToken

_FIRST, _LEAST, _MOST = 16, 4, 2048
_PIECE_S = 0.3
"""Whoever comes while something is read ahead waits for one piece."""


def pieces(start: int, end: int, cancel: CancelToken, *, most: int = _MOST) -> Iterator[int]:
    """Where to read to, one piece after the other; each is made as long as the ones before have taken.

    Args:
        start: Tokens that are read already.
        end: Tokens to read.
        cancel: Checked before each piece.
        most: Tokens of the longest piece.

    Yields:
        How many tokens are to be read by then; the last is `end`.
    """
    length = min(_FIRST, most)
    while start < end and not cancel.requested:
        start = min(start + length, end)
        began = time.monotonic()
        yield start
        took_s = time.monotonic() - began
        if took_s > _PIECE_S:
            length = max(length // 2, _LEAST)
        elif took_s < _PIECE_S / 3:
            length = min(2 * length, most)
