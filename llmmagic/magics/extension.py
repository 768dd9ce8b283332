"""Putting the magics into a shell, and taking them out without a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from llmmagic.magics import matcher, transforms
from llmmagic.magics.magics import LLMMagics

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_installed: WeakKeyDictionary[InteractiveShell, LLMMagics] = WeakKeyDictionary()


def load(shell: InteractiveShell) -> None:
    """Add the magics, their completion, and what makes prompts literal. A second time does nothing."""
    if shell in _installed:
        return
    magics = LLMMagics(shell)
    shell.register_magics(magics)
    transforms.install(shell)
    matcher.install(shell, magics)
    _installed[shell] = magics


def unload(shell: InteractiveShell) -> None:
    """Remove all of it and free the session."""
    magics = _installed.pop(shell, None)
    if magics is None:
        return
    matcher.remove(shell)
    transforms.remove(shell)
    for kind, names in magics.magics.items():
        table = shell.magics_manager.magics[kind]
        for name in names:
            table.pop(name, None)
    magics.close()
