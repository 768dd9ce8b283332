"""The bars and the chatter of the libraries, turned into our events."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from llmmagic.core.events import LoadEvent, LoadProgress, LoadStage, ProgressUnit
from llmmagic.core.operation import CancelToken

Emit = Callable[[LoadEvent], None]

_NOISY = ("transformers", "bitsandbytes", "accelerate", "huggingface_hub", "peft")
_hook_lock = threading.RLock()  # the hook of transformers is one for the whole process


class EventBar:
    """Looks like a tqdm bar to the library, and emits `LoadProgress`.

    Cancelling raises out of the library's loop: between two tensors or two chunks of a download.
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *,
        total: float | None = None,
        stage: LoadStage,
        unit: ProgressUnit,
        emit: Emit,
        cancel: CancelToken,
        detail: str = "",
    ) -> None:
        self.iterable = iterable
        self.total = int(total) if total is not None else _length(iterable)
        self.n = 0
        self._stage: LoadStage = stage
        self._unit: ProgressUnit = unit
        self._emit = emit
        self._cancel = cancel
        self._detail = detail
        self._shown = -1

    def __iter__(self) -> Iterator[Any]:
        for item in self.iterable or ():
            yield item
            self.update()

    def update(self, n: float | None = 1) -> None:
        """Count ``n`` more."""
        self._cancel.check()
        self.n += int(n or 0)
        # At most some two hundred events for one bar: a download has a chunk every few kilobytes.
        step = self.n * 200 // self.total if self.total else self.n
        if step != self._shown or self.n == self.total:
            self._shown = step
            self._emit(LoadProgress(self._stage, self.n, self.total, self._unit, self._detail))

    def refresh(self, *_args: object, **_kwargs: object) -> None:
        """Emit the state as it is."""
        self._emit(LoadProgress(self._stage, self.n, self.total, self._unit, self._detail))

    def set_description(self, desc: str = "", *_args: object, **_kwargs: object) -> None:
        """Name what is worked on."""
        self._detail = desc

    def set_postfix(self, *_args: object, **_kwargs: object) -> None:
        """Figures that tqdm would draw behind the bar."""

    def close(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> EventBar:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


def _length(iterable: Iterable[Any] | None) -> int | None:
    try:
        return len(iterable)  # type: ignore[arg-type]
    except TypeError:
        return None


@contextmanager
def library_bars(stage: LoadStage, *, emit: Emit, cancel: CancelToken) -> Iterator[None]:
    """Within it, the bars that transformers draws in this thread become events of ``stage``.

    Args:
        stage: What the bars count: tensors that are read, converted, quantised or written.
        emit: Gets the events.
        cancel: Checked at every tensor.
    """
    from transformers.utils import logging as hf_logging

    owner = threading.get_ident()

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != owner:
            return factory(*args, **kwargs)
        iterable = args[0] if args else kwargs.get("iterable")
        return EventBar(iterable, total=kwargs.get("total"), stage=stage, unit="tensors", emit=emit, cancel=cancel)

    with _hook_lock:
        if not hasattr(hf_logging, "set_tqdm_hook"):  # transformers 5.0: its loading loop looks the name up
            drawn = hf_logging.tqdm
            hf_logging.tqdm = lambda *args, **kwargs: hook(drawn, args, kwargs)
            try:
                yield
            finally:
                hf_logging.tqdm = drawn
            return
        previous = hf_logging.set_tqdm_hook(hook)
        try:
            yield
        finally:
            hf_logging.set_tqdm_hook(previous)


@contextmanager
def no_library_bars() -> Iterator[None]:
    """Within it, transformers draws no bars from this thread: for what is saved on the way, in a moment."""
    with library_bars("save", emit=lambda event: None, cancel=CancelToken()):
        yield


class _Quiet(logging.Filter):
    """Drops hints and warnings of the model libraries from one thread; lets errors and everything else through."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        noisy = record.name.partition(".")[0] in _NOISY
        return not noisy or record.levelno >= logging.ERROR or record.thread != self._thread


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within it, the model libraries write no hints and warnings to stderr from this thread.

    What matters of them is checked here and said as a `Notice` or raised. Errors still get through.
    """
    from transformers.utils import logging as hf_logging

    hf_logging.get_logger()  # makes its handler
    quiet = _Quiet()
    handlers = {handler for name in ("", *_NOISY) for handler in logging.getLogger(name).handlers}
    if logging.lastResort is not None:
        handlers.add(logging.lastResort)  # for loggers without a handler: bitsandbytes while it is imported
    for handler in handlers:
        handler.addFilter(quiet)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(quiet)
