"""``echo TEXT | llmchat``: one answer to standard output, and nothing else.

The model runs in this process: there is no screen that it could keep from drawing.
"""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import FrameType
from typing import TextIO

from typing_extensions import assert_never

from llmmagic.core.errors import ModelNotFoundError, did_you_mean
from llmmagic.core.events import (
    Cancelled,
    ChatEvent,
    ChatFinished,
    ChatStarted,
    LoadFinished,
    LoadProgress,
    Notice,
    PrefillProgress,
    TextDelta,
)
from llmmagic.core.operation import Operation
from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic.core.session import Session
from llmmagic.core.session.conversations import DEFAULT_CONVERSATION
from llmmagic_tui.cli_arguments import COMMANDS
from llmmagic_tui.settings import Settings, remember_model

_LONG_PROMPT = 512  # tokens; reading fewer takes no time worth a line
_UNITS = {"bytes": 1e6}
_UNIT_NAMES = {"bytes": "MB"}


class Progress:
    """One line on a terminal that is written over and over; nothing at all elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream if stream.isatty() else None
        self._width = 0

    def show(self, text: str) -> None:
        """Show a text in place of the last one."""
        if self._stream is None:
            return
        line = one_line(text, limit=shutil.get_terminal_size().columns - 1)
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def clear(self) -> None:
        """Leave an empty line."""
        if self._stream is not None and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
            self._width = 0

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        sys.stderr.write(f"llmchat: {one_line(text)}\n")


def answer(prompt: str, settings: Settings, *, conversation: str | None = None) -> int:
    """Load the model and print its answer while it is generated.

    Args:
        prompt: What is asked.
        settings: The model and how it answers.
        conversation: Id of a conversation of the store that this goes on with; ``None`` keeps nothing.

    Returns:
        The exit status: 0, or 130 after Ctrl+C.

    Raises:
        LLMMagicError: Loading or generating failed.
        BrokenPipeError: Whoever read the output went away.
    """
    progress = Progress(sys.stderr)
    # While the model loads there is nothing to save, and a handler in Python would have to wait for the C code of the
    # imports: the system's own handling ends the process at once.
    with _on_interrupt(signal.SIG_DFL), _session(settings, conversation) as (session, name):
        _load(session, settings, progress)
        operation = session.chat(
            prompt,
            conversation=name,
            # What is set is for new conversations; one that goes on has its own.
            system=settings.system if conversation is None else None,
            generation=settings.generation,
        )

        def stop(_number: int, _frame: FrameType | None) -> None:
            operation.cancel()
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # who asks twice does not want to wait for the next token

        with _on_interrupt(stop):
            return _stream(operation, progress)


@contextmanager
def _on_interrupt(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Handle Ctrl+C in some way for a while."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _session(settings: Settings, conversation: str | None) -> Iterator[tuple[Session, str]]:
    """A session, and the name of the conversation that is meant."""
    if conversation is None:
        with closing(Session(chat_only=True, overflow=settings.overflow)) as session:
            yield session, DEFAULT_CONVERSATION
        return
    from llmmagic_tui.commands import find_conversation, open_store

    with open_store() as store:
        head = find_conversation(store, conversation)
        with closing(Session(chat_only=True, store=store, overflow=settings.overflow)) as session:
            yield session, head


def _load(session: Session, settings: Settings, progress: Progress) -> None:
    config = settings.load_config()
    progress.show(f"Loading {config.title} ...")
    try:
        for event in session.load(config):
            match event:
                case LoadProgress():
                    progress.show(describe(event))
                case Notice():
                    if event.level == "warning":
                        progress.say(event.text)
                case LoadFinished():
                    if config.base_url is None:
                        remember_model(config.model_id)
                case Cancelled():
                    pass
                case _:
                    assert_never(event)
    except ModelNotFoundError as err:
        if hint := did_you_mean(config.model_id, COMMANDS):
            raise ModelNotFoundError(err.message, hint=f"{hint} is a command. {err.hint}".rstrip()) from err
        raise
    finally:
        progress.clear()


def describe(event: LoadProgress) -> str:
    """A progress event in words: ``download 12/93 MB model.gguf``."""
    scale = _UNITS.get(event.unit, 1)
    total = "" if event.total is None else f"/{event.total / scale:,.0f}"
    return f"{event.stage} {event.done / scale:,.0f}{total} {_UNIT_NAMES.get(event.unit, event.unit)} {event.detail}"


def _stream(operation: Operation[ChatEvent], progress: Progress) -> int:
    out = sys.stdout
    clean = strip_controls if out.isatty() else str
    text, status = "", 0
    for event in operation:
        match event:
            case TextDelta():
                progress.clear()
                out.write(clean(event.text))
                out.flush()
            case PrefillProgress():
                if event.total_tokens - event.cached_tokens > _LONG_PROMPT:
                    progress.show(f"reading {event.done_tokens:,}/{event.total_tokens:,} tokens")
            case Notice():
                if event.level == "warning":
                    progress.say(event.text)
            case ChatFinished():
                text, status = event.text, 130 if event.finish_reason == "cancelled" else 0
            case ChatStarted():
                pass
            case _:
                assert_never(event)
    progress.clear()
    if not text.endswith("\n"):
        out.write("\n")
    return status
