"""``llmchat --web``: the real server on loopback; nothing without the token."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from tests.tui.conftest import RunLlmchat, command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the server is ended by a signal here")


@pytest.fixture
def address(environment: dict[str, str], tmp_path: Path) -> Iterator[URL]:
    """What the server prints: its address with the token."""
    server = subprocess.Popen(
        command("tiny-random", "--web"), stdout=subprocess.PIPE, env=environment, cwd=tmp_path, text=True
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.fullmatch(r"llmchat is at (http://127\.0\.0\.1:\d+/\?token=\S+)\n", line)
        assert found is not None, line
        yield URL(found.group(1))
    finally:
        server.send_signal(signal.SIGINT)
        with server:
            assert server.wait(timeout=20) == 0


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    # unsafe: the cookies of an address that is a number are kept, as a browser does
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        yield session


async def test_nothing_without_the_token(address: URL, client: aiohttp.ClientSession) -> None:
    bare = address.with_query(None)
    for url in (bare, bare / "static/js/textual.js", bare / "ws", bare / "download/x", bare / "nowhere"):
        for query in (None, {"token": ""}, {"token": "x"}, {"token": address.query["token"][:-1]}):
            async with client.get(url.with_query(query)) as response:
                assert response.status == 403
                assert address.query["token"] not in await response.text()
    assert not list(client.cookie_jar)


async def test_token_becomes_a_cookie_that_opens_page_and_files(address: URL, client: aiohttp.ClientSession) -> None:
    async with client.get(address.update_query(fontsize="12")) as response:
        assert response.status == 200
        assert response.url == address.with_query(fontsize="12")  # the token has left the address
        page = await response.text()
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    cookie = response.history[0].headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert f'data-session-websocket-url="ws://127.0.0.1:{address.port}/ws"' in page
    async with client.get(address.with_query(None) / "static/js/textual.js") as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
    ],
)
async def test_foreign_names_and_pages_are_refused(
    headers: dict[str, str], address: URL, client: aiohttp.ClientSession
) -> None:
    async with client.get(address) as response:
        assert response.status == 200
    async with client.get(address.with_query(None), headers=headers) as response:
        assert response.status == 403
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await client.ws_connect(address.with_query(None) / "ws", headers=headers)
    assert caught.value.status == 403


async def test_page_gets_the_app(address: URL, client: aiohttp.ClientSession) -> None:
    async with client.get(address) as response:
        assert response.status == 200
    origin = f"http://127.0.0.1:{address.port}"
    socket = await client.ws_connect(
        (address.with_query(None) / "ws").with_query(width=100, height=30), headers={"Origin": origin}
    )

    async def read_screen() -> bytes:
        screen = b""
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                screen += message.data
            if b"tiny-random" in screen:
                break
        return screen

    async with socket:
        assert b"tiny-random" in await asyncio.wait_for(read_screen(), timeout=60)


def test_port_in_use_is_one_line(llmchat: RunLlmchat, address: URL) -> None:
    done = llmchat("--web", "--port", str(address.port))
    assert done.returncode == 1
    assert f"Port {address.port} cannot be used" in done.stderr
    assert done.stderr.count("\n") == 1
