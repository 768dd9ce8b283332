"""Tab in a line of ours: options, their values, model names, files and variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

from llmmagic.core.config import DenseCopy, DType, EngineName, GGUFType, MethodName, Quantization, Recipe, SaveFormat
from llmmagic.magics import candidates
from llmmagic.magics.arguments import options_of

if TYPE_CHECKING:
    from llmmagic.magics.magics import LLMMagics

_LINE = re.compile(r"\s*%{1,2}(llm_\w+)\s(.*)$", re.DOTALL)
_VALUES: dict[str, tuple[str, ...]] = {
    "quantization": get_args(Quantization),
    "dtype": get_args(DType),
    "engine": get_args(EngineName),
    "gguf_type": get_args(GGUFType),
    "format": get_args(SaveFormat),
    "dense_copy": get_args(DenseCopy),
    "recipe": get_args(Recipe),
    "method": get_args(MethodName),
    "device": ("auto", "cpu", "cuda", "mps"),
    "split": ("train", "validation", "test"),
}


def complete(line: str, magics: LLMMagics) -> list[str]:
    """What the last word of a line could be.

    Args:
        line: Up to the cursor.
        magics: Of the shell.

    Returns:
        Whole words; nothing for lines that are not ours, and within a prompt.
    """
    match = _LINE.match(line)
    if match is None or (magic := getattr(magics, match[1], None)) is None or not hasattr(magic, "parser"):
        return []
    options = options_of(magic)
    *before, word = re.split(r"\s+", match[2])
    written, equals, value = word.partition("=")
    if equals and written in options:
        return [f"{written}={found}" for found in _values(options[written].dest, value, magics)]
    if before and before[-1] in options and options[before[-1]].nargs != 0:
        return list(_values(options[before[-1]].dest, word, magics))
    if match[1] == "llm_chat" and _in_prompt(before, options):
        return []
    found = [] if word.startswith("-") else list(_arguments(match[1], word, magics))
    if word.startswith("-") or not word:
        found += [text for text in options if text.startswith("--") and text.startswith(word) and text not in before]
    return found


def _values(name: str, prefix: str, magics: LLMMagics) -> Iterator[str]:
    """Values of an option."""
    if name in ("data", "eval_data"):
        yield from candidates.data(prefix, magics.shell.user_ns)
    elif name == "adapter":
        yield from candidates.adapters(prefix)
    else:
        named = name in ("conversation", "sample_conversation")
        values = tuple(magics.session.conversations) if named else _VALUES.get(name, ())
        yield from (value for value in values if value.startswith(prefix))


def _arguments(magic: str, prefix: str, magics: LLMMagics) -> Iterator[str]:
    """Plain arguments of a magic."""
    if magic == "llm_load":
        yield from candidates.models(prefix)
    elif magic == "llm_save":
        yield from candidates.adapters(prefix)
    elif magic == "llm_data":
        yield from candidates.data(prefix, magics.shell.user_ns)


def _in_prompt(before: list[str], options: dict[str, Any]) -> bool:
    """Whether the prompt has begun: a word that is neither an option nor the value of one."""
    value_next = False
    for word in before:
        if value_next:
            value_next = False
        elif (name := word.partition("=")[0]) in options:
            value_next = options[name].nargs != 0 and "=" not in word
        elif word:
            return True
    return False
