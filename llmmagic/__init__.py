"""llmmagic: load, fine-tune and chat with your own language model.

In a notebook: ``%load_ext llmmagic``, then ``%llm_load``, ``%%llm_train`` and ``%llm_chat``. In a script::

    from llmmagic import Session

    session = Session()
    session.load("demo").wait()
    print(session.ask("What is the tallest mountain?"))

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from llmmagic.core.config import GenerationConfig, LoadConfig, TrainConfig
    from llmmagic.core.errors import LLMMagicError
    from llmmagic.core.session import Session

__version__ = "0.1.0"
__all__ = ["GenerationConfig", "LLMMagicError", "LoadConfig", "Session", "TrainConfig", "__version__"]

_HOMES = {
    "GenerationConfig": "llmmagic.core.config",
    "LLMMagicError": "llmmagic.core.errors",
    "LoadConfig": "llmmagic.core.config",
    "Session": "llmmagic.core.session",
    "TrainConfig": "llmmagic.core.config",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """What ``%load_ext llmmagic`` calls."""
    from llmmagic.magics.extension import load

    load(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """What ``%unload_ext llmmagic`` calls."""
    from llmmagic.magics.extension import unload

    unload(ipython)
