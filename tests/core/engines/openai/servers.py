"""Real servers on loopback: llama.cpp's own, and one that does what a test tells it to."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = "sk-test-0123456789abcdef"
MODEL = {"id": "org/parrot", "object": "model", "owned_by": "tests"}
USAGE = {"prompt_tokens": 40, "completion_tokens": 3, "total_tokens": 43}


@contextmanager
def llama_server(gguf: Path, *, context: int, key: str | None = None) -> Iterator[str]:
    """llama.cpp's HTTP server with a model, called ``tiny``; gives its address."""
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = str(gguf)
    params.model_alias = {"tiny"}
    params.n_ctx = context
    params.n_parallel = 1
    params.warmup = False
    params.verbosity = 0
    params.cpuparams.n_threads = 1
    params.port = 0
    params.endpoint_props = True
    if key is not None:
        params.api_keys = [key]
    server = Server(params)
    server.handle_completions({"prompt": [0], "n_predict": 1, "stream": True}, lambda chunk: False)
    yield str(server.listening_address)
    del server


def delta(**content: Any) -> bytes:
    """A piece of a reply, as a server sends it."""
    return event({"choices": [{"index": 0, "delta": content, "finish_reason": None}]})


def end(reason: str = "stop", usage: dict[str, Any] | None = USAGE) -> bytes:
    """The end of a reply."""
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    counted = b"" if usage is None else event({"choices": [], "usage": usage})
    return last + counted + b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def says(*parts: bytes, pause_s: float = 0.0) -> Callable[[Handler], None]:
    """Answer with a stream of these bytes, one write each."""

    def answer(handler: Handler) -> None:
        handler.begin_stream()
        for part in parts:
            handler.write_chunk(part)
            time.sleep(pause_s)
        handler.write_chunk(b"")

    return answer


def breaks_after(*parts: bytes) -> Callable[[Handler], None]:
    """Answer with these bytes and close the connection in the middle."""

    def answer(handler: Handler) -> None:
        handler.begin_stream()
        for part in parts:
            handler.write_chunk(part)
        handler.close_connection = True

    return answer


def hangs(after: bytes = b"") -> Callable[[Handler], None]:
    """Answer with these bytes, then with nothing until the client leaves."""

    def answer(handler: Handler) -> None:
        if after:
            handler.begin_stream()
            handler.write_chunk(after)
        handler.connection.settimeout(20)
        handler.server.told.client_left = handler.connection.recv(1) == b""
        handler.server.told.left.set()
        handler.close_connection = True

    return answer


def refuses(status: int, body: Any = None, **headers: str) -> Callable[[Handler], None]:
    """Answer with an HTTP error."""
    message = {"error": {"message": "no"}} if body is None else body
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return lambda handler: handler.reply(status, text, headers)


@dataclass
class Told:
    """What a `ScriptedServer` does, and what it heard.

    Attributes:
        address: With ``/v1``.
        script: How the next replies go; the last one goes on for ever.
        models: What ``GET /v1/models`` lists.
        paths: Answers for other paths: JSON, or a function of the request's body.
        requests: Path, headers and body of each request for a reply.
        client_left: Whether a client closed the connection on a server that hangs.
    """

    address: str = ""
    script: deque[Callable[[Handler], None]] = field(default_factory=deque)
    models: Any = field(default_factory=lambda: {"object": "list", "data": [MODEL]})
    paths: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    listings: list[dict[str, str]] = field(default_factory=list)
    client_left: bool = False
    left: threading.Event = field(default_factory=threading.Event)

    def will(self, *answers: Callable[[Handler], None]) -> None:
        """Set the script."""
        self.script = deque(answers)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    told: Told

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients leave when they have what they want."""


class Handler(BaseHTTPRequestHandler):
    """Answers as the script says."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        told = self.server.told
        if self.path == "/v1/models":
            told.listings.append(dict(self.headers))
            if callable(told.models):
                told.models(self)
            else:
                self.reply(200, json.dumps(told.models).encode(), {})
        elif self.path in told.paths:
            self.reply(200, json.dumps(told.paths[self.path]).encode(), {})
        else:
            self.reply(404, b'{"error": {"message": "not found"}}', {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = self.server.told
        if self.path in told.paths:
            self.answer_path(told.paths[self.path], body)
            return
        if not self.path.startswith("/v1/"):
            self.reply(404, b'{"error": {"message": "not found"}}', {})
            return
        told.requests.append((self.path, dict(self.headers), body))
        answer = told.script[0] if len(told.script) == 1 else told.script.popleft()
        answer(self)

    def answer_path(self, answer: Any, body: dict[str, Any]) -> None:
        try:
            value = answer(body) if callable(answer) else answer
        except ValueError as err:
            self.reply(400, json.dumps({"error": {"message": str(err)}}).encode(), {})
        else:
            self.reply(200, json.dumps(value).encode(), {})

    def reply(self, status: int, text: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(text)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def write_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextmanager
def scripted_server() -> Iterator[Told]:
    """A server that does what a test tells it to."""
    server = _Server(("127.0.0.1", 0), Handler)
    server.told = Told(address=f"http://127.0.0.1:{server.server_port}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
