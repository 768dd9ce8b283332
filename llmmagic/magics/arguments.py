"""Splitting the line of a magic: options as declared, and a prompt that is taken literally.

IPython's own splitting keeps the quotes in the values and cannot leave the rest of a line alone, so the line is split
here; what the words mean is still declared by ``@argument`` and parsed by its parser.
"""

from __future__ import annotations

import argparse
import keyword
from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError

from llmmagic.core.errors import did_you_mean
from llmmagic.magics.errors import MagicUsageError


def parse_line(magic: Callable[..., Any], line: str) -> argparse.Namespace:
    """Parse a line of options and plain arguments.

    Args:
        magic: The magic, decorated with ``@magic_arguments``.
        line: What follows its name.

    Returns:
        The parsed arguments.

    Raises:
        MagicUsageError: An unknown option, a missing value, an unclosed quote.
    """
    words, position = [], 0
    parser = _parser(magic)
    while (position := _skip_space(line, position)) < len(line):
        option = _option_at(parser, line, position)
        if option is None:
            word, position = _word(line, position)
            words.append(word)
        else:
            taken, position = _take_option(option, line, position)
            words.extend(taken)
    return _parse(parser, words)


def parse_options_then_text(magic: Callable[..., Any], line: str) -> tuple[argparse.Namespace, str]:
    """Parse the options at the beginning of a line and leave the rest as it is.

    Args:
        magic: The magic, decorated with ``@magic_arguments``.
        line: What follows its name.

    Returns:
        The options, and the text: it begins at the first word that is no option, or after ``--``.

    Raises:
        MagicUsageError: An unknown ``--option``, a missing value, an unclosed quote in a value.
    """
    words, position = [], 0
    parser = _parser(magic)
    while (position := _skip_space(line, position)) < len(line):
        if line[position:].split(None, 1)[0] == "--":
            position += 2
            break
        option = _option_at(parser, line, position)
        if option is None:
            break
        taken, position = _take_option(option, line, position)
        words.extend(taken)
    return _parse(parser, words), line[position:].strip()


def check_variable(name: str) -> str:
    """A name that ``-o`` can store under.

    Raises:
        MagicUsageError: It is no Python name.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise MagicUsageError(f"-o needs the name of a variable, got {name!r}.")
    return name


def parse_pairs(option: str, text: str) -> dict[str, str]:
    """Read ``name=value`` pairs that are set apart by commas.

    Args:
        option: Where they stand, for messages.
        text: What was given.

    Returns:
        Name -> value.

    Raises:
        MagicUsageError: A pair without a name or a value, or a name that is given twice.
    """
    pairs: dict[str, str] = {}
    for pair in filter(str.strip, text.split(",")):
        name, _, value = (part.strip() for part in pair.partition("="))
        if not name or not value or name in pairs:
            raise MagicUsageError(
                f"{option} needs NAME=VALUE pairs, got {pair.strip()!r}.", hint="a=prompt,b=completion"
            )
        pairs[name] = value
    return pairs


def parse_names(text: str | None) -> tuple[str, ...]:
    """Read names that are set apart by commas; none of nothing."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def options_of(magic: Callable[..., Any]) -> dict[str, argparse.Action]:
    """Every spelling of every option of a magic."""
    return {text: action for action in _parser(magic)._actions for text in action.option_strings}


def _parser(magic: Callable[..., Any]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = magic.parser  # type: ignore[attr-defined]
    return parser


def _skip_space(line: str, position: int) -> int:
    while position < len(line) and line[position].isspace():
        position += 1
    return position


def _option_at(parser: argparse.ArgumentParser, line: str, position: int) -> tuple[str, argparse.Action] | None:
    """The option that begins here; ``None`` when this is an argument, or the text."""
    written = line[position:].split(None, 1)[0].partition("=")[0]
    if not written.startswith("-"):
        return None
    known = {text: action for action in parser._actions for text in action.option_strings}
    if written in known:
        return written, known[written]
    if not (written.startswith("--") and written[2:3].isalpha()):
        return None  # "-5 degrees", "- a list item", "--- a rule"
    matches = [text for text in known if text.startswith(written)]
    if len(matches) == 1:
        return matches[0], known[matches[0]]
    name = parser.prog.split()[-1].lstrip("%")
    hint = f"Could be {' or '.join(matches)}." if matches else did_you_mean(written, known)
    raise MagicUsageError(f"%{name} has no option {written}.", hint=hint or f"%{name}? lists the options.")


def _take_option(option: tuple[str, argparse.Action], line: str, position: int) -> tuple[list[str], int]:
    text, action = option
    written = line[position:].split(None, 1)[0].partition("=")[0]
    position += len(written)
    if action.nargs == 0:
        if line[position : position + 1] == "=":
            raise MagicUsageError(f"{text} takes no value.")
        return [text], position
    position = position + 1 if line[position : position + 1] == "=" else _skip_space(line, position)
    if position >= len(line):
        raise MagicUsageError(f"{text} needs a value.")
    value, position = _word(line, position)
    # Joined, so that a value that begins with a dash is not taken for an option.
    return ([f"{text}={value}"] if text.startswith("--") else [text, value]), position


def _word(line: str, position: int) -> tuple[str, int]:
    """One word or quoted text. A backslash is a plain character (Windows paths), unless it quotes a quote."""
    quote = line[position]
    if quote not in "\"'":
        end = position
        while end < len(line) and not line[end].isspace():
            end += 1
        return line[position:end], end
    value, end = [], position + 1
    while end < len(line) and line[end] != quote:
        if line[end] == "\\" and line[end + 1 : end + 2] == quote:
            end += 1
        value.append(line[end])
        end += 1
    if end >= len(line):
        raise MagicUsageError(f"A quote is not closed: {line[position:]}")
    return "".join(value), end + 1


def _parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    try:
        return parser.parse_args(words)
    except UsageError as err:
        name = parser.prog.split()[-1].lstrip("%")
        raise MagicUsageError(f"%{name}: {err}.", hint=f"%{name}? shows how it is used.") from err
