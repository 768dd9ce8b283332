"""The examples in the docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["tree", "window", "store"])
def test_examples(name: str) -> None:
    module = importlib.import_module(f"llmmagic.core.chat.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
