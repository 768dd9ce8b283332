"""Errors: one line with a hint, one tree, and fit to cross a process border."""

from __future__ import annotations

import inspect
import pickle

import pytest

from llmmagic.core import errors
from llmmagic.core.errors import ConfigError, ContextOverflowError, LLMMagicError, did_you_mean

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, LLMMagicError)]


def test_message_and_hint_make_one_line() -> None:
    assert str(ConfigError("Wrong.", hint="Do this.")) == "Wrong. Do this."
    assert str(ConfigError("Wrong.")) == "Wrong."


def test_the_tree_in_the_docstring_is_complete() -> None:
    drawn = errors.__doc__ or ""
    assert [cls.__name__ for cls in ALL if cls.__name__ not in drawn] == []


@pytest.mark.parametrize("cls", [cls for cls in ALL if cls is not ContextOverflowError])
def test_errors_survive_pickling(cls: type[LLMMagicError]) -> None:
    copy = pickle.loads(pickle.dumps(cls("what", hint="how")))
    assert type(copy) is cls
    assert (copy.message, copy.hint, str(copy)) == ("what", "how", "what how")


def test_figures_survive_pickling() -> None:
    copy = pickle.loads(pickle.dumps(ContextOverflowError("full", needed_tokens=30, context_window=20)))
    assert (copy.needed_tokens, copy.context_window) == (30, 20)


def test_did_you_mean_names_the_nearest_or_nothing() -> None:
    assert did_you_mean("max_step", ["max_steps", "seed"]) == "Did you mean 'max_steps'?"
    assert did_you_mean("zzz", ["max_steps", "seed"]) == ""
