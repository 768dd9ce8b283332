"""Errors as one line: the cell fails and the type can be caught, but no traceback buries the sentence that helps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from IPython.core.error import UsageError

from llmmagic.core.errors import ConfigError, LLMMagicError
from llmmagic.core.sanitize import one_line

F = TypeVar("F", bound=Callable[..., Any])
_RED, _RESET = "\x1b[31m", "\x1b[0m"


class MagicUsageError(ConfigError, UsageError):  # type: ignore[misc]  # IPython is not typed here
    """An option or argument of a magic that is not allowed."""


def show_as_one_line(error: BaseException, *, colour: bool) -> None:
    """Make a raised error show as one line wherever IPython reports it.

    Args:
        error: What was raised; its texts may hold names and data that nobody has checked.
        colour: Whether the front end understands ANSI colours.
    """
    if isinstance(error, LLMMagicError):
        # The kernel protocol sends str(error) beside the traceback, so the error's own texts are made safe.
        error.message, error.hint = one_line(error.message), one_line(error.hint)
        error.args = (error.message,)
    name = type(error).__name__
    text = one_line(str(error))
    shown = f"{_RED}{name}{_RESET}" if colour else name
    lines = [f"{shown}: {text}" if text else shown]
    # IPython asks an exception for this method before it formats a traceback itself.
    error._render_traceback_ = lambda: lines  # type: ignore[attr-defined]


def one_line_errors(magic: F) -> F:
    """Decorate a magic so that what llmmagic raises on purpose, and a forced stop, show as one line."""

    @functools.wraps(magic)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return magic(self, *args, **kwargs)
        except (LLMMagicError, KeyboardInterrupt) as error:
            show_as_one_line(error, colour=self.front_end.colour)
            raise

    return run  # type: ignore[return-value]
