"""The worker process: loads a model, generates, and ends when the app does.

Started by `llmmagic.core.engines.worker`, never by a person. Requests come on standard input, replies go to what was
standard output; everything that libraries print goes to standard error, which is a log file.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import BinaryIO

from llmmagic.core.engines.opened import OpenedEngine, open_for_chat
from llmmagic.core.engines.wire import Message, from_error, from_line, to_line
from llmmagic.core.errors import EngineError, LLMMagicError
from llmmagic.core.events import EngineEvent, LoadEvent, TextDelta, TokenLogprobs
from llmmagic.core.operation import CancelledOperation, CancelToken

# Text is sent at most this often: a person sees no difference, and a fast model is not slowed down by the pipe.
_SEND_EVERY_S = 0.02
# The app draws on the same cores; it should come first when both want to run.
_NICENESS = 5


def main() -> None:
    """Serve until standard input ends."""
    faulthandler.enable()  # a crash in native code leaves a trace in the log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the app, which then cancels
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # Nothing but this module may use the pipes: no print, and no process that a library starts.
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    Worker(requests, replies).serve()


class Worker:
    """Carries out one request after the other; cancels are heard in between by a thread of their own."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests = requests
        self._replies = replies
        self._waiting: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cancels: dict[int, CancelToken] = {}
        self._opened: OpenedEngine | None = None

    def serve(self) -> None:
        """Never returns: the process ends with its standard input."""
        threading.Thread(target=self._listen, name="llmmagic-listen", daemon=True).start()
        while True:
            request = self._waiting.get()
            self._reply(request["id"], self._answer(request))
            del self._cancels[request["id"]]

    def _listen(self) -> None:
        for line in self._requests:
            request = from_line(line)
            if request["op"] == "cancel":
                cancel = self._cancels.get(request["of"])
                if cancel is not None:
                    cancel.request()
            else:
                self._cancels[request["id"]] = CancelToken()
                self._waiting.put(request)
        # The app is gone, or done with this process. At once, and from this thread: the other may be deep in a long
        # computation, and there is nothing to put in order.
        os._exit(0)

    def _answer(self, request: Message) -> Message:
        cancel = self._cancels[request["id"]]
        try:
            if request["op"] == "load":
                return {"result": self._load(request, cancel)}
            if request["op"] == "generate":
                self._generate(request, cancel)
            elif request["op"] == "prefill_ahead":
                return {"result": {"tokens": self._engine().engine.prefill_ahead(request["prompt_ids"], cancel)}}
            elif request["op"] == "memory":
                return {"result": {"bytes": self._engine().engine.memory_bytes(request["device"])}}
            else:
                self._engine().engine.reset()
            return {"result": None}
        except CancelledOperation:
            return {"cancelled": True}
        except LLMMagicError as err:
            traceback.print_exception(err, file=sys.stderr)
            return {"error": from_error(err)}
        except Exception as err:  # the border of a process: whatever it is, the app must hear of it
            traceback.print_exception(err, file=sys.stderr)
            text = str(err).strip().split("\n", 1)[0]
            return {"error": from_error(EngineError(f"The model process failed: {type(err).__name__}: {text}"))}

    def _load(self, request: Message, cancel: CancelToken) -> Message:
        def emit(event: LoadEvent) -> None:
            self._reply(request["id"], {"events": [event]})

        self._opened = open_for_chat(request["config"], emit=emit, cancel=cancel)
        return {
            "info": self._opened.info,
            "template": self._opened.template.to_payload(),
            "capabilities": self._opened.engine.capabilities,
        }

    def _generate(self, request: Message, cancel: CancelToken) -> None:
        batch = _Batch()
        for event in self._engine().engine.generate(request["prompt_ids"], request["config"], cancel):
            events = batch.add(event)
            if events:
                self._reply(request["id"], {"events": events})

    def _engine(self) -> OpenedEngine:
        if self._opened is None:
            raise EngineError("No model is loaded in the model process.")
        return self._opened

    def _reply(self, request_id: int, reply: Message) -> None:
        try:
            self._replies.write(to_line({"id": request_id, **reply}))
            self._replies.flush()
        except OSError:  # nobody reads any more: the end of standard input follows
            os._exit(0)


class _Batch:
    """Joins text that comes quickly: several tokens become one event."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._sent = 0.0

    def add(self, event: EngineEvent) -> list[EngineEvent]:
        """Take an event.

        Returns:
            What is to be sent now, in order.
        """
        if isinstance(event, TextDelta):
            self._texts.append(event.text)
            self._token_ids += event.token_ids
            self._logprobs += event.logprobs
            return self._take() if time.monotonic() - self._sent >= _SEND_EVERY_S else []
        return [*self._take(), event]

    def _take(self) -> list[EngineEvent]:
        if not self._texts:
            return []
        joined = TextDelta("".join(self._texts), tuple(self._token_ids), tuple(self._logprobs))
        self._texts, self._token_ids, self._logprobs, self._sent = [], [], [], time.monotonic()
        return [joined]
