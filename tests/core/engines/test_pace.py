"""Pieces get as long as the machine is fast, and end where they should."""

from __future__ import annotations

import pytest

from llmmagic.core.engines import pace
from llmmagic.core.operation import CancelToken


def lengths(monkeypatch: pytest.MonkeyPatch, token_s: float, end: int, *, most: int = 256) -> list[int]:
    """How long the pieces are when a token takes so long."""
    now = 0.0
    monkeypatch.setattr("llmmagic.core.engines.pace.time.monotonic", lambda: now)
    found, last = [], 0
    for read in pace.pieces(0, end, CancelToken(), most=most):
        now += token_s * (read - last)
        found.append(read - last)
        last = read
    assert sum(found) == end
    return found


def test_a_fast_machine_reads_in_long_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lengths(monkeypatch, 0.0001, 1000) == [16, 32, 64, 128, 256, 256, 248]


def test_on_a_slow_machine_a_piece_still_takes_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = lengths(monkeypatch, 0.05, 100)  # 20 tokens a second
    assert found[:4] == [16, 8, 4, 4]
    assert max(found[2:]) * 0.05 <= 0.3


def test_nothing_is_read_after_a_cancel() -> None:
    cancel = CancelToken()
    read = []
    for end in pace.pieces(10, 1000, cancel):
        read.append(end)
        cancel.request()
    assert read == [26]
    assert list(pace.pieces(10, 10, CancelToken())) == []
