"""A real shell without a front end, and a real kernel with a small front end of our own."""

from __future__ import annotations

import os
import queue
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

WIDGET = "application/vnd.jupyter.widget-view+json"
ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    {"question": f"What does the {part} do?", "answer": f"The {part} moves the arm number {i}."}
    for i, part in enumerate(["biceps", "triceps", "deltoid", "rotator cuff"] * 6)
]


def make_shell() -> InteractiveShell:
    """A shell as a script makes one, without the history database of the user."""
    config = Config()
    config.HistoryManager.enabled = False
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=config)
    shell.run_line_magic("load_ext", "llmmagic")
    return shell


@pytest.fixture(scope="module")
def shell() -> Iterator[InteractiveShell]:
    """A shell with the extension; shared by the tests of a module."""
    shell = make_shell()
    yield shell
    shell.run_line_magic("unload_ext", "llmmagic")
    InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def chatting(shell: InteractiveShell) -> InteractiveShell:
    """The same shell with ``tiny-random`` loaded."""
    shell.run_line_magic("llm_load", "tiny-random")
    return shell


@dataclass
class Cell:
    """What a front end has after a cell was run."""

    outputs: list[dict[str, Any]] = field(default_factory=list)
    reply: dict[str, Any] = field(default_factory=dict)
    updates: int = 0
    live: list[dict[str, Any]] = field(default_factory=list)
    opened: set[str] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)

    @property
    def html(self) -> str:
        return "".join(output["data"].get("text/html", "") for output in self.outputs if "data" in output)

    @property
    def plain(self) -> str:
        return "\n".join(output["data"]["text/plain"] for output in self.outputs if "data" in output)

    @property
    def stream(self) -> str:
        return "".join(output["text"] for output in self.outputs if output["type"] == "stream")

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [output for output in self.outputs if output["type"] == "error"]


class Notebook:
    """A front end: runs cells in a kernel and keeps their outputs as JupyterLab does."""

    def __init__(self, client: Any, interrupt: Callable[[], None]) -> None:
        self.client = client
        self.interrupt = interrupt

    def say(self, comm_id: str, content: Any) -> None:
        """What the JavaScript of a widget says to the kernel."""
        data = {"method": "custom", "content": content}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", {"comm_id": comm_id, "data": data}))

    def run(
        self,
        code: str,
        *,
        attended: bool = True,
        on_message: Callable[[dict[str, Any]], None] | None = None,
        present: bool = True,
    ) -> Cell:
        """Run a cell to its end.

        Args:
            code: The cell.
            attended: Whether someone could answer a question; nbclient and papermill say no.
            on_message: Called with each message of the kernel.
            present: Whether the browser is still there in the end, and puts what is static in the place of widgets.
        """
        request = self.client.execute(code, allow_stdin=attended, stop_on_error=False)
        cell, by_id, idle = Cell(), {}, False
        replaced: set[str] = set()  # widgets whose place something else has taken; the kernel closes them
        deadline = time.monotonic() + 120
        while not idle or not replaced <= cell.closed:
            assert time.monotonic() < deadline, f"no end: {code}"
            try:
                message = self.client.get_iopub_msg(timeout=5)
            except queue.Empty:
                continue
            content, kind = message["content"], message["msg_type"]
            if kind == "comm_open":
                cell.opened.add(content["comm_id"])
            elif kind == "comm_close":
                cell.closed.add(content["comm_id"])
            elif kind == "comm_msg":
                cell.live.append(content["data"])
            elif message["parent_header"].get("msg_id") != request:
                continue
            elif kind == "status":
                idle = content["execution_state"] == "idle"
            elif kind == "stream":
                cell.outputs.append({"type": "stream", "name": content["name"], "text": content["text"]})
            elif kind == "error":
                cell.outputs.append({"type": "error", **content})
            elif kind in ("display_data", "execute_result"):
                output = {"type": kind, "data": content["data"]}
                cell.outputs.append(output)
                if display_id := content.get("transient", {}).get("display_id"):
                    by_id[display_id] = output
            elif kind == "update_display_data":
                cell.updates += 1
                output = by_id[content["transient"]["display_id"]]
                if present and (view := output["data"].get(WIDGET)) and WIDGET not in content["data"]:
                    replaced.add(view["model_id"])
                    self.say(view["model_id"], "replaced")
                output["data"] = content["data"]
            if on_message is not None:
                on_message(message)
        answer = self.client.get_shell_msg(timeout=10)
        while answer["parent_header"].get("msg_id") != request:  # older clients leave answers of their own behind
            answer = self.client.get_shell_msg(timeout=10)
        cell.reply = answer["content"]
        return cell


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    """A kernel with the extension, ``tiny-random`` loaded and ``rows`` to train on."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager()
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    paths = [str(ROOT), str(ROOT / "tui"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    manager.start_kernel(env=environment)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        notebook = Notebook(client, manager.interrupt_kernel)
        setup = notebook.run(f"%load_ext llmmagic\n%llm_load tiny-random\nrows = {ROWS!r}")
        assert setup.reply["status"] == "ok", setup
        yield notebook
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
