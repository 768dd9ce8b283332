"""A Hugging Face Hub on this machine: enough of its API for the real client to list and download repositories."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories are folders; some names answer with an error."""

    def __init__(self, repos: dict[str, Path]) -> None:
        self.repos = repos
        self.errors: dict[str, tuple[int, str]] = {}
        self.requests: list[str] = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        repo_id = "/".join(parts[2:4] if api else parts[:2])
        if repo_id in self.hub.errors:
            status, code = self.hub.errors[repo_id]
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code}, body)
        elif repo_id not in self.hub.repos:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, body)
        elif api:
            self._api(repo_id, parts[4:], body)
        else:
            self._file(self.hub.repos[repo_id] / "/".join(parts[4:]), body)

    def _api(self, repo_id: str, rest: list[str], body: bool) -> None:
        files = sorted(path for path in self.hub.repos[repo_id].iterdir() if path.is_file())
        if rest[:1] in (["revision"], ["tree"]) and rest[1] not in ("main", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no revision"}, body)
            return
        if rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": f.name, "size": f.stat().st_size, "oid": _etag(f)} for f in files]
            self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
            return
        siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in files]
        info = {"id": repo_id, "modelId": repo_id, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}
        self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, file: Path, body: bool) -> None:
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no file"}, body)
            return
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        self._send(200, file.read_bytes(), headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def fake_hub(repos: dict[str, Path]) -> Iterator[FakeHub]:
    """Serve folders as repositories.

    Args:
        repos: Folder of each ``org/name``.
    """
    hub = FakeHub(repos)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
