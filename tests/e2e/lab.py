"""JupyterLab in headless Chromium, with folders of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
_START_S = 90.0
_CELLS_S = 240.0


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """Write a notebook of code cells without outputs."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata={"kernelspec": kernel}
    )
    nbformat.write(notebook, path)


class Lab:
    """A running JupyterLab; `folder` is what its file browser shows."""

    def __init__(self, folder: Path, port: int, token: str) -> None:
        self.folder = folder
        self._base = f"http://127.0.0.1:{port}"
        self._token = token

    def address(self, notebook: str) -> str:
        """Where a notebook is opened, in a workspace of its own."""
        return f"{self._base}/lab/workspaces/{secrets.token_hex(4)}/tree/{notebook}?token={self._token}&reset"

    def request(self, path: str, method: str = "GET") -> Any:
        """Ask the server's API."""
        request = urllib.request.Request(f"{self._base}/api/{path}", method=method)
        request.add_header("Authorization", f"token {self._token}")
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
        return json.loads(text) if text else None

    def stop_kernels(self) -> None:
        """End all kernels, as if the server had been restarted."""
        for session in self.request("sessions"):
            self.request(f"sessions/{session['id']}", "DELETE")


@contextmanager
def run_lab(root: Path, *, theme: str) -> Iterator[Lab]:
    """Start JupyterLab.

    Args:
        root: An empty folder for everything it writes.
        theme: ``"JupyterLab Light"`` or ``"JupyterLab Dark"``.
    """
    folder, settings = root / "work", root / "settings" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True)
    settings.mkdir(parents=True)
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    names = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "LLMMAGIC_DATA_DIR": "llmmagic",
    }
    environment = {**os.environ, **{name: str(root / place) for name, place in names.items()}, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tui")])
    options = ["--no-browser", "--allow-root", f"--port={port}", f"--IdentityProvider.token={token}"]
    with (root / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", *options, f"--ServerApp.root_dir={folder}"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    lab = Lab(folder, port, token)
    try:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                lab.request("status")
                break
            except OSError:
                assert time.monotonic() < deadline, (root / "log").read_text()
                assert server.poll() is None, (root / "log").read_text()
                time.sleep(0.3)
        yield lab
        lab.stop_kernels()
    finally:
        server.terminate()
        server.wait(timeout=30)


@contextmanager
def run_browser() -> Iterator[Any]:
    """Chromium, driven by playwright; skips the test where one of the two is missing."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


class NotebookPage:
    """An open notebook."""

    def __init__(self, browser: Any, lab: Lab, name: str, *, kernel: bool = True) -> None:
        """Open a notebook.

        Args:
            browser: Where.
            lab: The server.
            name: Of the file.
            kernel: Whether it gets a kernel, as it does unless JupyterLab is told otherwise.
        """
        self.page = browser.new_page(viewport={"width": 1200, "height": 1400})
        self.failures: list[str] = []
        self.page.on("pageerror", lambda error: self.failures.append(str(error)))
        if not kernel:
            self.page.route(
                "**/api/sessions*", lambda route: route.abort() if route.request.method == "POST" else route.continue_()
            )
        self.page.goto(lab.address(name))
        self.page.wait_for_selector(".jp-Notebook", timeout=_START_S * 1000)
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=_START_S * 1000)
        self.page.wait_for_timeout(3000)  # toolbar and kernel come after the cells
        self.page.keyboard.press("Control+B")  # the file browser takes half of a narrow window

    def run_all(self) -> None:
        """Run > Run All Cells."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        self.page.get_by_text("Run All Cells", exact=True).click()

    def interrupt(self) -> None:
        """The ■ button."""
        self.page.locator('.jp-NotebookPanel-toolbar [data-jp-item-name="interrupt"]').click()

    def wait(self) -> None:
        """Wait until no cell is running."""
        deadline = time.monotonic() + _CELLS_S
        self.page.wait_for_timeout(500)
        while any("*" in text for text in self.page.locator(".jp-InputArea-prompt").all_inner_texts()):
            assert time.monotonic() < deadline, "a cell does not end"
            self.page.wait_for_timeout(300)

    def output(self, cell: int) -> Any:
        """The output area of a cell, counted from 0."""
        return self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")

    def run_cell(self, cell: int) -> None:
        """Run one cell, counted from 0."""
        self.page.locator(".jp-CodeCell").nth(cell).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")

    def restart_and_run_all(self) -> None:
        """The ▶▶ button, and yes; what was shown before has gone then."""
        old = self.page.locator(".jp-OutputArea-output").last.element_handle()
        self.page.locator('.jp-NotebookPanel-toolbar [data-jp-item-name="restart-and-run"]').click()
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.wait_for_function("node => !node.isConnected", arg=old, timeout=_START_S * 1000)

    def picture(self, path: Path) -> None:
        """A picture of what is on screen."""
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=path)

    def screenshot(self, path: Path) -> None:
        """A picture of the whole notebook."""
        self.page.set_viewport_size({"width": 1200, "height": 2400})
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=path)
        self.page.set_viewport_size({"width": 1200, "height": 1400})

    def save(self) -> None:
        """Ctrl+S."""
        self.page.locator('.jp-NotebookPanel-toolbar [data-jp-item-name="save"]').click()
        self.page.wait_for_timeout(1500)


class Panel:
    """A chat panel in an open notebook."""

    def __init__(self, notebook: NotebookPage, number: int) -> None:
        self.page = notebook.page
        self.root = notebook.page.locator(".llmmagic-panel").nth(number)
        self.messages = self.root.locator(".log > article")
        self.input = self.root.locator(".composer textarea")
        self.state = self.root.locator(":scope > .state")

    def ready(self) -> None:
        """Wait until something can be sent."""
        self.root.locator(".composer .main:not(.stop):not([disabled])").wait_for(timeout=_CELLS_S * 1000)

    def draft(self, text: str) -> None:
        """Write something, and wait until it is counted."""
        self.input.fill(text)
        self.root.locator(".figures", has_text="draft").wait_for()
        self.page.wait_for_timeout(400)  # a count of what was there before may have been under way

    def press_send(self) -> None:
        """The button."""
        self.root.locator(".composer .main").click()

    def send(self) -> None:
        """Send the draft and wait for the end of the reply."""
        count = self.messages.count()
        self.press_send()
        self.messages.nth(count + 1).wait_for(state="attached", timeout=_CELLS_S * 1000)
        self.ready()

    def say(self, text: str) -> None:
        """Write, send, wait."""
        self.draft(text)
        self.send()

    def too_wide(self) -> list[str]:
        """What stands out of the panel at its right."""
        found: list[str] = self.root.evaluate(
            """(panel) => {
              const right = panel.getBoundingClientRect().right + 1;
              const inside = (node) => node.closest("pre, table, .bar");
              return [...panel.querySelectorAll("*")]
                .filter((node) => node.getBoundingClientRect().right > right && !inside(node))
                .map((node) => node.className || node.tagName);
            }"""
        )
        return found


def pictures_folder(factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: ``LLMMAGIC_SCREENSHOTS``, if someone wants to look at them."""
    folder = Path(os.environ.get("LLMMAGIC_SCREENSHOTS") or factory.mktemp("pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
