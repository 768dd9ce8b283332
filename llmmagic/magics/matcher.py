"""Where IPython asks what Tab could complete, in its old and its new way."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from llmmagic.magics.magics import LLMMagics

_MARK = "_llmmagic_matcher"


def install(shell: InteractiveShell, magics: LLMMagics) -> None:
    """Add the completion to a shell."""
    matcher = _matcher(magics) or _old_matcher(magics)
    setattr(matcher, _MARK, True)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(matcher)


def remove(shell: InteractiveShell) -> None:
    """Take it away again."""
    if shell.Completer is not None:
        matchers = shell.Completer.custom_matchers
        matchers[:] = [matcher for matcher in matchers if not hasattr(matcher, _MARK)]


def _matcher(magics: LLMMagics) -> Callable[[Any], Any] | None:
    """For IPython 8.6 and later."""
    try:
        from IPython.core.completer import SimpleCompletion, context_matcher
    except ImportError:
        return None

    @context_matcher(identifier="llmmagic")
    def match(context: Any) -> dict[str, Any]:
        found = _from_token(context.token, context.text_until_cursor, magics)
        return {"completions": [SimpleCompletion(text=text, type="param") for text in found], "suppress": bool(found)}

    matcher: Callable[[Any], Any] = match
    return matcher


def _old_matcher(magics: LLMMagics) -> Callable[[Any], Any]:
    """For IPython before 8.6: gets the token only; the line stands in the completer."""

    def match(token: str) -> list[str]:
        return _from_token(token, magics.shell.Completer.text_until_cursor, magics)

    return match


def _from_token(token: str, line: str, magics: LLMMagics) -> list[str]:
    """Completions of what IPython takes for the last word, which may be only the end of it."""
    if "%llm_" not in line:
        return []
    from llmmagic.magics.completion import complete  # not before the first Tab: loading the extension is to be instant

    found = complete(line, magics)
    word = re.split(r"\s", line)[-1]
    skipped = len(word) - len(token)
    return [text[skipped:] for text in found] if word.endswith(token) else []
