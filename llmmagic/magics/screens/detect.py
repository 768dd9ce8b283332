"""Which front end a shell has."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from llmmagic.magics.screens.base import FrontEnd


def detect(shell: InteractiveShell) -> FrontEnd:
    """The front end of a shell; what it needs is imported now."""
    if getattr(shell, "kernel", None) is not None:
        from llmmagic.magics.screens.kernel import KernelFrontEnd

        return KernelFrontEnd(shell)
    # looked up, not imported: a script has no use for prompt_toolkit
    terminal = sys.modules.get("IPython.terminal.interactiveshell")
    if terminal and isinstance(shell, terminal.TerminalInteractiveShell) and sys.stdout.isatty():
        from llmmagic.magics.screens.terminal import TerminalFrontEnd

        return TerminalFrontEnd(colour=str(shell.colors).lower() != "nocolor")
    from llmmagic.magics.screens.plain import PlainFrontEnd

    return PlainFrontEnd()
