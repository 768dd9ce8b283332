"""What the app and its worker process say to each other: one JSON object a line.

JSON and a fixed list of classes, not pickle: reading a message never runs code, whatever the other side was made to
send.

Requests have ``id``, ``op`` (``load``, ``generate``, ``prefill_ahead``, ``memory``, ``reset``, ``cancel``) and what
that needs. Replies have the request's ``id`` and one of ``events``, ``result``, ``error``, ``cancelled``; all but
the first end the request.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from llmmagic.core import errors
from llmmagic.core.config import GenerationConfig, LoadConfig
from llmmagic.core.engines.base import Capabilities
from llmmagic.core.errors import EngineError, LLMMagicError
from llmmagic.core.events import (
    Choice,
    DataReport,
    Finding,
    GenerationFinished,
    GenerationStats,
    LoadFinished,
    LoadProgress,
    MemoryEstimate,
    ModelInfo,
    Notice,
    Parity,
    PrefillProgress,
    RowView,
    TextDelta,
    TokenLogprobs,
    TokenPiece,
    TrainEvent,
)

Message = dict[str, Any]

_CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        *get_args(TrainEvent),  # from a training in other processes
        Capabilities,
        Choice,
        DataReport,
        Finding,
        GenerationConfig,
        GenerationFinished,
        GenerationStats,
        LoadConfig,
        LoadFinished,
        LoadProgress,
        MemoryEstimate,
        ModelInfo,
        Notice,
        Parity,
        PrefillProgress,
        RowView,
        TextDelta,
        TokenLogprobs,
        TokenPiece,
    )
}
_CLASS = "$"


def to_line(message: Message) -> bytes:
    """Write a message down.

    Args:
        message: JSON values, and dataclasses of this module's list at any depth.

    Returns:
        One line. Text is escaped to ASCII, so that half a surrogate pair in it survives.
    """
    return json.dumps(message, default=_encode, separators=(",", ":")).encode("ascii") + b"\n"


def from_line(line: bytes) -> Message:
    """Read a message.

    Args:
        line: From `to_line`.

    Returns:
        The message. Every sequence comes back as a tuple, as events and configs have them.

    Raises:
        EngineError: It is no message.
    """
    try:
        message = _decode(json.loads(line))
    except (ValueError, TypeError, KeyError) as err:
        raise EngineError("The model process sent something that cannot be understood.") from err
    if not isinstance(message, dict):
        raise EngineError("The model process sent something that is no message.")
    return message


def _encode(value: Any) -> Any:
    if is_dataclass(value) and type(value).__name__ in _CLASSES:
        return {_CLASS: type(value).__name__, **{f.name: getattr(value, f.name) for f in fields(value)}}
    raise TypeError(f"{type(value).__name__} does not cross to another process.")


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    if isinstance(value, dict):
        decoded = {key: _decode(item) for key, item in value.items() if key != _CLASS}
        return _CLASSES[value[_CLASS]](**decoded) if _CLASS in value else decoded
    return value


def from_error(err: LLMMagicError) -> Message:
    """Describe an error: the nearest class of `llmmagic.core.errors`, and its plain attributes."""
    known = next(cls for cls in type(err).__mro__ if getattr(errors, cls.__name__, None) is cls)
    state = {name: value for name, value in vars(err).items() if isinstance(value, (str, int, float, type(None)))}
    return {"class": known.__name__, "state": state}


def to_error(message: Message) -> LLMMagicError:
    """Make the error again that `from_error` described."""
    cls = getattr(errors, message["class"], None)
    if not (isinstance(cls, type) and issubclass(cls, LLMMagicError)):
        return EngineError("The model process failed in a way that cannot be understood.")
    state = message["state"]
    # Around __init__: constructors differ from class to class, while attributes tell all.
    error: LLMMagicError = cls.__new__(cls, state["message"])
    vars(error).update(state)
    return error
