"""``llmchat --web``: the app in a browser of this machine, by textual-serve.

Whoever can open the page can use the app as the person who started it. So it listens on the loopback interface only,
and that is not enough: every local user and every web site that the browser visits can reach that. What else is asked:

- the token in the address, kept in a cookie after the first request, for the page, its files and the websocket;
- the right ``Host``, so that no foreign name can be pointed at this server (DNS rebinding);
- the right ``Origin``, so that no other page can open the websocket with the cookie.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence

import psutil
from aiohttp import WSCloseCode, web
from aiohttp.typedefs import Handler, Middleware
from textual_serve.server import Server
from yarl import URL

from llmmagic.core.errors import ConfigError

HOST = "127.0.0.1"
_TOKEN = "token"
_QUIT_S = 10.0  # for the apps and their models to end
_POLL_S = 0.1
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# Keys go to the terminal as soon as there is one, without a click on it first.
_FOCUS = """<script>
  new MutationObserver((_, observer) => {
    const input = document.querySelector(".xterm-helper-textarea");
    if (input && document.body.classList.contains("-first-byte")) {
      observer.disconnect();
      input.focus();
    }
  }).observe(document.body, {attributes: true, childList: true, subtree: true});
</script>
"""


class TokenServer(Server):
    """A textual-serve server that answers nobody without the token."""

    def __init__(self, command: str, *, port: int, token: str) -> None:
        """Prepare to serve.

        Args:
            command: Starts the app; run by the shell for every page that is opened.
            port: Where the socket listens.
            token: What has to be known.
        """
        super().__init__(command, host=HOST, port=port, title="llmchat")
        self._token = token
        # Cookies belong to a host, whatever the port: two servers must not overwrite each other's.
        self._cookie = f"llmchat-{port}"
        self._hosts = (f"{HOST}:{port}", f"localhost:{port}")
        self._pages: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()

    @property
    def address(self) -> str:
        """The address to open, with the token."""
        return f"{self.public_url}/?{_TOKEN}={self._token}"

    async def _make_app(self) -> web.Application:
        app = await super()._make_app()
        app.middlewares.append(self._guard())
        app.on_response_prepare.append(self._harden)
        app.on_cleanup.append(self._see_them_off)
        return app

    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.host not in self._hosts:
                raise web.HTTPForbidden(text="This server answers to its own address only.")
            origin = request.headers.get("Origin")
            if origin is not None and origin not in {f"http://{host}" for host in self._hosts}:
                raise web.HTTPForbidden(text="This server answers to its own pages only.")
            if self._knows(request.query.get(_TOKEN)):
                # The token leaves the address bar, and with it the history and every link that is followed.
                page = web.HTTPFound(URL("/").with_query(request.query).without_query_params(_TOKEN))
                page.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict", path="/")
                raise page
            if not self._knows(request.cookies.get(self._cookie)):
                raise web.HTTPForbidden(text="Open the address that llmchat printed: it has the token.")
            response = await handler(request)
            if isinstance(response, web.Response) and response.content_type == "text/html" and response.text:
                response.text = response.text.replace("</body>", f"{_FOCUS}</body>")
            return response

        return guard

    def _knows(self, given: str | None) -> bool:
        return given is not None and secrets.compare_digest(given.encode(), self._token.encode())

    async def _harden(self, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(response, web.WebSocketResponse):
            self._pages.add(response)
        response.headers.update(_HEADERS)
        # The page names a font of a foreign server: without it nothing leaves the machine.
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
            f"img-src 'self' data:; connect-src 'self' ws://{request.host}; frame-ancestors 'none'"
        )

    async def on_startup(self, app: web.Application) -> None:
        """Say where the app is."""
        self.console.print(f"llmchat is at {self.address}", style="bold", highlight=False, soft_wrap=True)
        self.console.print("Only this machine can reach it. Ctrl+C ends it.", highlight=False)

    async def on_shutdown(self, app: web.Application) -> None:
        """Let the apps of all pages quit."""
        for page in list(self._pages):
            await page.close(code=WSCloseCode.GOING_AWAY)

    async def _see_them_off(self, app: web.Application) -> None:
        # An event loop that closes before it has seen its child processes end complains on stderr.
        own = psutil.Process()
        for _ in range(int(_QUIT_S / _POLL_S)):
            if not own.children():
                break
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_POLL_S)


def serve(arguments: Sequence[str], *, port: int | None = None) -> int:
    """Serve the app until Ctrl+C.

    Args:
        arguments: Those of ``llmchat`` for the app that each page gets.
        port: Where to listen; ``None`` takes any free port.

    Returns:
        The exit status.

    Raises:
        ConfigError: The port cannot be used.
    """
    if port is not None and not 0 <= port <= 65535:
        raise ConfigError(f"--port must be between 0 and 65535, got {port}.")
    # Without it `-m` looks for modules in the current folder first, and whatever lies there would run.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    command = [sys.executable, "-m", "llmmagic_tui", *arguments]
    # exec: the shell that textual-serve starts makes room, so that the app is a child of this server.
    text = subprocess.list2cmdline(command) if sys.platform == "win32" else f"exec {shlex.join(command)}"
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        if sys.platform != "win32":  # there it would let a second server share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port or 0))
            listener.listen()  # from now on: whoever reads the address may be faster than the server starts
        except OSError as err:
            raise ConfigError(f"Port {port} cannot be used: {err.strerror}.", hint="Leave out --port.") from err
        server = TokenServer(text, port=listener.getsockname()[1], token=secrets.token_urlsafe(32))
        # No access log: its lines would have the token.
        web.run_app(server._make_app(), sock=listener, print=None, access_log=None, shutdown_timeout=_QUIT_S)
    return 0
