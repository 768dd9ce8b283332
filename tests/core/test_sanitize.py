"""What a terminal would obey never reaches it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmmagic.core.sanitize import one_line, strip_controls

FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("plain äöü 漢字 🙂\n\tok", "plain äöü 漢字 🙂\n\tok"),
        ("a\x1b[31;1mred\x1b[0m", "ared"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;ZXZpbA==\x9cx", "x"),
        ("\x9b31mred", "red"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1b(0x\x1b7", "x"),
        ("\x1b]0;never ends", "0;never ends"),
        ("\x1b\x1b[2J[2J", "[2J"),
        ("100%\rdone", "100%\ndone"),
        ("a\r\nb", "a\nb"),
        ("user\u202enimda\u202c", "usernimda"),
        ("a\ud800b", "a\ufffdb"),
        ("bell\x07 back\x08 null\x00", "bell back null"),
    ],
)
def test_strips(raw: str, clean: str) -> None:
    assert strip_controls(raw) == clean


@given(st.text(alphabet=st.sampled_from("\x1b\x9b\x9d\x9c\x07\r\n\t[]P;?m0a\\\u202e\ud800"), max_size=40))
def test_nothing_dangerous_is_left(text: str) -> None:
    clean = strip_controls(text)
    assert not FORBIDDEN.search(clean)
    assert strip_controls(clean) == clean


def test_one_line_folds_and_cuts() -> None:
    assert one_line(" a\n\n b\t\x1b[1mc ") == "a b c"
    assert one_line("abcdefgh", limit=5) == "abcd…"
    assert one_line("abcde", limit=5) == "abcde"
