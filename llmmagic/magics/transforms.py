"""Two places where IPython's input syntax would get in the way of a prompt.

``%llm_chat What is bursitis?`` ends in a question mark, which IPython reads as a call for help on ``bursitis``; and a
cell magic without a body, such as ``%%llm_train med --data rows``, is refused before it is called.
"""

from __future__ import annotations

import tokenize
from typing import TYPE_CHECKING, Any

from IPython.core.inputtransformer2 import EscapedCommand

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_LITERAL_LINE = "llm_chat"
_BODY_OPTIONAL = ("%%llm_train", "%%llm_chat")


class LiteralLine(EscapedCommand):  # type: ignore[misc]  # IPython is not typed here
    """``%llm_chat TEXT``, taken as it is."""

    priority = 4  # before HelpEnd, which has 5

    @classmethod
    def find(cls, tokens_by_line: list[list[Any]]) -> LiteralLine | None:
        """Find the first such line of the cell."""
        for line in tokens_by_line:
            tokens = [token for token in line if token.type not in (tokenize.INDENT, tokenize.DEDENT)]
            if len(tokens) < 3 or tokens[0].string != "%" or tokens[1].string != _LITERAL_LINE:
                continue
            # "%llm_chat?" is a call for help, "%llm_chat ?" is a prompt
            if tokens[2].start[0] == tokens[1].end[0] and tokens[2].start[1] > tokens[1].end[1]:
                found: LiteralLine = cls(tokens[0].start)
                return found
        return None


def give_body(lines: list[str]) -> list[str]:
    """Give a cell magic that needs no body an empty line for one."""
    words = lines[0].split(None, 1) if lines else []
    if words and words[0] in _BODY_OPTIONAL and not any(line.strip() for line in lines[1:]):
        return [lines[0] if lines[0].endswith("\n") else lines[0] + "\n", "\n"]
    return lines


def install(shell: InteractiveShell) -> None:
    """Add both to a shell."""
    manager = shell.input_transformer_manager
    manager.token_transformers.append(LiteralLine)
    manager.cleanup_transforms.append(give_body)


def remove(shell: InteractiveShell) -> None:
    """Take both away again."""
    manager = shell.input_transformer_manager
    manager.token_transformers.remove(LiteralLine)
    manager.cleanup_transforms.remove(give_body)
