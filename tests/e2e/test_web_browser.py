"""``llmchat --web`` in headless Chromium: the page is the app, and talks to this machine only."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from yarl import URL

from llmmagic.core.chat.store import ConversationStore
from tests.tui.conftest import command

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(sys.platform == "win32", reason="the server is ended by a signal"),
]
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
def address(environment: dict[str, str], tmp_path: Path) -> Iterator[str]:
    server = subprocess.Popen(
        command("tiny-random", "--web", "--max-new-tokens", "20"),
        stdout=subprocess.PIPE,
        env=environment,
        cwd=tmp_path,
        text=True,
    )
    try:
        assert server.stdout is not None
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found is not None
        yield found.group()
    finally:
        server.send_signal(signal.SIGINT)
        with server:
            assert server.wait(timeout=30) == 0


def test_page_is_the_app(address: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    database = tmp_path / "data" / "conversations.db"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        answered: list[str] = []
        page.on("response", lambda response: answered.append(response.url))
        page.goto(address)
        assert "token" not in page.url
        page.wait_for_selector("body.-first-byte", timeout=60_000)
        page.wait_for_function("document.activeElement.matches('.xterm-helper-textarea')")  # without a click
        page.wait_for_timeout(2000)  # an app that has just got the focus needs a moment to pass it on
        page.keyboard.type("Hello from the browser")
        page.keyboard.press("Enter")
        end = time.monotonic() + 60
        texts: list[str] = []
        while len(texts) < 2 or not texts[1]:
            assert time.monotonic() < end
            time.sleep(0.2)
            if database.exists():
                with ConversationStore(database) as store:
                    texts = [m.content for summary in store.list() for m in store.load(summary.id).path()]
        assert texts[0] == "Hello from the browser"
        page.wait_for_timeout(1000)
        assert len(page.screenshot(path=tmp_path / "page.png")) > 10_000
        browser.close()
    assert {URL(url).host for url in answered} == {"127.0.0.1"}
