"""Everything llmmagic raises on purpose.

    LLMMagicError
    ├── ConfigError (also a ValueError)      an option, key or value that is not allowed
    ├── SessionBusyError                     a second operation while one is running
    ├── NetworkError                         a download failed or the network is off
    ├── StorageError                         no space left, or a folder cannot be written
    ├── ModelError
    │   ├── ModelNotFoundError               no such model, folder or file
    │   ├── ModelNotLoadedError              something needs a model and none is loaded
    │   ├── ModelLoadError                   found, but it cannot be loaded
    │   ├── ModelMemoryError                 it does not fit into the memory that is free
    │   ├── AdapterError                     an adapter that is broken or belongs to another base
    │   └── RemoteCodeError                  the model wants to run its own code
    ├── DataError
    │   ├── DataNotFoundError                no such file, data set or variable
    │   └── DataFormatError                  rows that cannot be understood (says which)
    ├── TrainingError                        training failed, or was refused before it began
    ├── ChatError
    │   ├── ChatTemplateError                the model's template is missing or refuses the messages
    │   ├── ContextOverflowError             the prompt does not fit into the context window
    │   └── ConversationNotFoundError        no conversation or message of that name
    ├── StoreError                           the conversation database
    └── EngineError                          generation failed, or the engine went away

Each has a message (what was given, what is allowed) and a hint (what to do). Shells show both as one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LLMMagicError(Exception):
    """Base of all errors that llmmagic raises on purpose.

    Attributes:
        message: What is wrong, in one sentence.
        hint: What to do about it; empty when the message says it already.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross a process border (the worker engine): keyword-only arguments need help to be pickled.
        return (_rebuild, (type(self), self.message, self.__dict__))


def _rebuild(cls: type[LLMMagicError], message: str, state: dict[str, object]) -> LLMMagicError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigError(LLMMagicError, ValueError):
    """An option, key or value that is not allowed."""


class SessionBusyError(LLMMagicError):
    """An operation was asked for while another one is running on the session."""


class NetworkError(LLMMagicError):
    """A download failed, or the network cannot be reached."""


class StorageError(LLMMagicError):
    """No space left on a disk, or a folder that cannot be written."""


class ModelError(LLMMagicError):
    """Base of what can go wrong with a model."""


class ModelNotFoundError(ModelError):
    """No such model, folder or file."""


class ModelNotLoadedError(ModelError):
    """Something needs a model and none is loaded."""


class ModelLoadError(ModelError):
    """The model was found, but it cannot be loaded."""


class ModelMemoryError(ModelError):
    """The model does not fit into the memory that is free.

    Attributes:
        needed_bytes: What it needs.
        free_bytes: What is free on the device.
        device: Where: ``"cpu"``, ``"cuda:0"``.
    """

    def __init__(
        self, message: str, *, hint: str = "", needed_bytes: int = 0, free_bytes: int = 0, device: str = "cpu"
    ) -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.device = device


class AdapterError(ModelError):
    """An adapter that is broken, or that belongs to another base model."""


class RemoteCodeError(ModelError):
    """The model wants to run code of its own, and the user has not allowed that."""


class DataError(LLMMagicError):
    """Base of what can go wrong with training or evaluation data."""


class DataNotFoundError(DataError):
    """No such file, data set or variable."""


class DataFormatError(DataError):
    """Rows that cannot be understood; the message says which row."""


class TrainingError(LLMMagicError):
    """Training failed, or was refused before it began."""


class ChatError(LLMMagicError):
    """Base of what can go wrong in a conversation."""


class ChatTemplateError(ChatError):
    """The model's chat template is missing, broken, or refuses these messages."""


class ContextOverflowError(ChatError):
    """The prompt does not fit into the context window.

    Attributes:
        needed_tokens: Tokens of the smallest prompt that could be sent, the reply reserve included.
        context_window: Tokens that the window holds.
    """

    def __init__(self, message: str, *, needed_tokens: int, context_window: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.needed_tokens = needed_tokens
        self.context_window = context_window


class ConversationNotFoundError(ChatError):
    """No conversation or message of that name."""


class StoreError(LLMMagicError):
    """The conversation database cannot be read or written."""


class EngineError(LLMMagicError):
    """Generation failed, or the engine went away."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The hint for a misspelt name.

    Args:
        given: What the user wrote.
        known: The names that exist.

    Returns:
        ``Did you mean 'max_steps'?``, or an empty string when nothing is near.
    """
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else ""
