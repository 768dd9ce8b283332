"""Runs the process that merges and converts, and makes events of what it says."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from llmmagic.core import errors
from llmmagic.core.errors import LLMMagicError, ModelLoadError
from llmmagic.core.events import LoadEvent, LoadProgress
from llmmagic.core.export.program import CONVERTING
from llmmagic.core.operation import CancelToken

# The child's import path is exactly ours: a file in the current folder that is named like a module is not found there.
_CODE = "import sys; sys.path[:] = sys.argv[1:]; from llmmagic.core.export.program import main; main()"
_PERCENT = re.compile(r"(\d+)%\|")
_POLL_S = 0.2
# What the last line of the log says when it was this machine and not the model.
_CIRCUMSTANCES = ("No space left", "MemoryError", "Cannot allocate", "PermissionError", "Permission denied")


@dataclass(frozen=True, slots=True)
class Job:
    """What the process is to do.

    Attributes:
        base_id: Name that finds the base model.
        revision: Its version.
        folder: Its Transformers folder.
        adapter: PEFT folder of an adapter to merge in.
        trust_remote_code: Whether the model's own code may run.
        dtype: What the weights are loaded and merged in; ``None`` does not load them: they are converted as they are.
        reference: Take what the model says about the held-out texts.
        merged: Where the weights go as a Transformers folder, the adapter merged in; what is converted is then that.
        save_dtype: What they are rounded to for it; ``None`` leaves them in ``dtype``.
        gguf: The GGUF file to write, if any.
        outtype: Its type, as the converter calls it.
    """

    base_id: str
    revision: str | None
    folder: str
    adapter: str | None
    trust_remote_code: bool
    dtype: str | None
    reference: bool
    merged: str | None = None
    save_dtype: str | None = None
    gguf: str | None = None
    outtype: str = ""


class UnconvertibleError(ModelLoadError):
    """The converter of llama.cpp cannot take this model, and will not another time."""


def run_job(
    job: Job, *, model_id: str, log: Path, emit: Callable[[LoadEvent], None], cancel: CancelToken
) -> dict[str, Any]:
    """Run a job to its end.

    Args:
        job: What to do.
        model_id: What the user calls the model, for messages.
        log: Where to write what libraries say.
        emit: Gets the progress.
        cancel: Kills the process.

    Returns:
        ``reference`` (see `llmmagic.core.export.reference`), and ``pre_tokenizer_known`` after a conversion.

    Raises:
        UnconvertibleError: The converter refuses the model.
        LLMMagicError: What the process raised.
        CancelledOperation: Cancelled; the process is gone.
    """
    with log.open("wb") as output, log.open("rb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=log.parent,
            start_new_session=sys.platform != "win32",  # out of the terminal's reach: Ctrl+C is for us alone
        )
        try:
            return _follow(process, job, model_id, said, log, emit, cancel)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _follow(
    process: subprocess.Popen[bytes],
    job: Job,
    model_id: str,
    said: IO[bytes],
    log: Path,
    emit: Callable[[LoadEvent], None],
    cancel: CancelToken,
) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, messages), name="llmmagic-convert", daemon=True)
    reader.start()
    process.stdin.write(json.dumps(asdict(job)).encode() + b"\n")
    process.stdin.flush()
    converting = False
    while True:
        cancel.check()
        try:
            message = messages.get(timeout=_POLL_S)
        except queue.Empty:
            if converting:
                _report(said, job.outtype, emit)
            continue
        if message is None:
            raise _failure(process, model_id, log, converting)
        if "progress" in message:
            emit(LoadProgress(**message["progress"]))
        elif CONVERTING in message:
            converting = True
            said.read()  # the bars of whatever came before
            emit(LoadProgress("convert", 0, None, "steps", job.outtype))
        elif "error" in message:
            raise _error(message["error"])
        else:
            result: dict[str, Any] = message["result"]
            return result


def _read(stdout: IO[bytes], messages: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in stdout:
        messages.put(json.loads(line))
    messages.put(None)


def _report(said: IO[bytes], outtype: str, emit: Callable[[LoadEvent], None]) -> None:
    percent = _PERCENT.findall(said.read().decode("utf-8", "replace"))
    if percent:
        emit(LoadProgress("convert", int(percent[-1]), 100, "steps", outtype))


def _error(said: dict[str, str]) -> LLMMagicError:
    cls = getattr(errors, said["class"], ModelLoadError)
    error: LLMMagicError = cls(said["message"], hint=said["hint"])
    return error


def _failure(process: subprocess.Popen[bytes], model_id: str, log: Path, converting: bool) -> ModelLoadError:
    """What a process that ended without a word died of."""
    status = process.wait()
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it says nothing"]
    last = lines[-1][:300].strip().rstrip(".")
    if status < 0:
        return ModelLoadError(
            f"The conversion of {model_id} was killed (signal {-status}), for want of memory perhaps.",
            hint="Use --engine transformers, or close other programs.",
        )
    settled = converting and not any(word in line for word in _CIRCUMSTANCES for line in lines[-3:])
    return (UnconvertibleError if settled else ModelLoadError)(
        f"{model_id} cannot be converted for llama.cpp: {last}.", hint="Use --engine transformers."
    )
