"""The app's end of the worker process: starts it, sends requests, reads replies, and knows when it is gone."""

from __future__ import annotations

import itertools
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

from llmmagic.core.config import LoadConfig, data_dir
from llmmagic.core.engines.wire import Message, from_line, to_error, to_line
from llmmagic.core.errors import EngineError
from llmmagic.core.events import LoadEvent
from llmmagic.core.operation import CancelledOperation, CancelToken

# The child's import path is exactly ours, set before anything is imported: a file in the current folder that is named
# like a module of the standard library is not found there unless it is here.
_CHILD_CODE = "import sys; sys.path[:] = sys.argv[1:]; from llmmagic.core.engines.worker_process import main; main()"
_POLL_S = 0.02  # how soon a cancel is passed on
_CANCEL_LOAD_S = 5.0  # how long a load may take to hear a cancel before the process is killed
_CLOSE_S = 3.0
_MAX_LOG_BYTES = 2**20


class WorkerHandle:
    """The child process and the pipes to it, as the app holds them."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            EngineError: It cannot be started.
        """
        if not sys.executable:
            raise EngineError("This Python cannot start another one.", hint="Load the model without a worker process.")
        command = [sys.executable, "-c", _CHILD_CODE, *sys.path]
        log = _open_log()
        try:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if log is None else log,
                # Out of the terminal's reach: Ctrl+C there is for this process alone.
                start_new_session=sys.platform != "win32",
                creationflags=_creation_flags(),
            )
        except OSError as err:
            raise EngineError(f"The model process cannot be started: {err}") from err
        finally:
            if log is not None:
                log.close()
        self._log_path = None if log is None else log.name
        self._ids = itertools.count(1)
        self._replies: dict[int, queue.SimpleQueue[Message | None]] = {}
        self._lock = threading.Lock()
        self._ended = False
        self._closed = False
        self._reader = threading.Thread(target=self._read, name="llmmagic-worker", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs and can be heard."""
        return not self._ended and self._popen.poll() is None

    def load(self, config: LoadConfig, emit: Callable[[LoadEvent], None], cancel: CancelToken) -> Message:
        """Load a model; returns ``info``, ``template`` and ``capabilities``."""
        result: Message = {}
        for event in self.run(cancel, "load", result, patience_s=_CANCEL_LOAD_S, config=config):
            emit(event)
        return result

    def run(
        self,
        cancel: CancelToken,
        op: str,
        result: Message | None = None,
        *,
        patience_s: float | None = None,
        **request: Any,
    ) -> Iterator[Any]:
        """Send a request and yield its events.

        Args:
            cancel: Passed on when it is requested.
            op: Which request.
            result: Gets what the request results in.
            patience_s: How long a cancelled request may go on before the process is killed; ``None`` is for ever.
            **request: What the request needs.

        Raises:
            LLMMagicError: What the child raised.
            EngineError: The child died.
            CancelledOperation: The request was cancelled and has no result.
        """
        request_id = next(self._ids)
        replies: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                raise self._death()
            self._replies[request_id] = replies
        cancelled_at: float | None = None
        done = False
        try:
            self._send({"id": request_id, "op": op, **request})
            while not done:
                if cancel.requested and cancelled_at is None:
                    cancelled_at = time.monotonic()
                    self._send({"op": "cancel", "of": request_id})
                if cancelled_at is not None and patience_s is not None:
                    if time.monotonic() - cancelled_at > patience_s:
                        raise CancelledOperation
                try:
                    reply = replies.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                if reply is None:
                    raise self._death()
                yield from reply.get("events", ())
                done = self._is_end(reply, result)
        finally:
            with self._lock:
                self._replies.pop(request_id, None)
            if not done and cancelled_at is None and not self._ended:  # the caller left the loop
                self._send({"op": "cancel", "of": request_id})

    def _is_end(self, reply: Message, result: Message | None) -> bool:
        if "error" in reply:
            raise to_error(reply["error"])
        if "cancelled" in reply:
            raise CancelledOperation
        if "result" not in reply:
            return False
        if result is not None:
            result.update(reply["result"])
        return True

    def _send(self, message: Message) -> None:
        assert self._popen.stdin is not None
        try:
            with self._lock:
                self._popen.stdin.write(to_line(message))
                self._popen.stdin.flush()
        except (OSError, ValueError):  # broken or closed: the reader tells everyone who waits
            return

    def _read(self) -> None:
        assert self._popen.stdout is not None
        try:
            for line in self._popen.stdout:
                reply = from_line(line)
                waiting = self._replies.get(reply["id"])
                if waiting is not None:
                    waiting.put(reply)
        except EngineError:  # it speaks another language: as good as dead
            self._popen.kill()
        finally:
            with self._lock:
                self._ended = True
                for waiting in self._replies.values():
                    waiting.put(None)

    def _death(self) -> EngineError:
        """What is known about the end of the process."""
        if self._closed:
            return EngineError("The model process was closed.", hint="Load the model again.")
        try:
            status = self._popen.wait(timeout=_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            status = self._popen.wait()
        hint = "Restart it; the conversation is kept."
        if self._log_path is not None:
            hint += f" Details are in {self._log_path}."
        return EngineError(f"The model process {_cause(status)}.", hint=hint)

    def close(self) -> None:
        """End the process: politely, then not."""
        if self._closed:
            return
        self._closed = True
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        try:
            with self._lock:
                self._popen.stdin.close()
        except OSError:  # what was still in the buffer had no reader
            pass
        try:
            self._popen.wait(timeout=_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        if threading.current_thread() is not self._reader:
            self._reader.join(timeout=_CLOSE_S)
        self._popen.stdout.close()


def _cause(status: int) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        if name == "SIGKILL":
            return "was killed (SIGKILL): probably the system ran out of memory"
        return f"crashed ({name})"
    return f"ended with status {status}"


def _creation_flags() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS
    return 0


def _open_log() -> IO[bytes] | None:
    """Where the child's output goes; ``None`` when there is no place to write."""
    path = data_dir() / "logs" / "worker.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        too_long = path.exists() and path.stat().st_size > _MAX_LOG_BYTES
        return open(path, "wb" if too_long else "ab")
    except OSError:
        return None
