"""First paint: from the start of the process to the first frame, ``llmchat`` against a bare Textual app.

The bare app has a Header, a Markdown, an Input and a Footer: what any chat app of Textual has to import and to draw.
Both run on a pseudo-terminal, by turns, so that whatever else the machine does meets both. Checked on the way: torch is
not in the app's process.

    python -m benchmarks first_paint [--quick]
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from benchmarks.peers import row

ROOT = Path(__file__).resolve().parents[1]
COLUMNS, ROWS = 120, 40
TIMEOUT_S = 60.0
TARGET = 1.3
RUNS, QUICK_RUNS = 15, 3

BARE_APP = """
from textual.app import App
from textual.widgets import Footer, Header, Input, Markdown

class Bare(App):
    def compose(self):
        yield Header()
        yield Markdown("# Hello\\n\\nSome *text*.")
        yield Input(placeholder="Ask something")
        yield Footer()

Bare().run()
"""
ALTERNATE_SCREEN = b"\x1b[?1049h"
# Words of the footer, the last widget that either app draws.
BARE_FOOTER, OUR_FOOTER = b"palette", b"Help"


def first_frame_s(command: list[str], footer: bytes, environment: dict[str, str]) -> tuple[float, bool]:
    """Start a program on a terminal of its own and wait for its first frame.

    Args:
        command: The program.
        footer: A word that stands in the footer.
        environment: Its variables.

    Returns:
        Seconds until the footer was drawn, and whether torch was in the process then.

    Raises:
        RuntimeError: It drew nothing.
    """
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True, close_fds=True
    )
    os.close(slave)
    screen = b""
    try:
        while True:
            ready, _, _ = select.select([master], [], [], TIMEOUT_S)
            try:
                data = os.read(master, 65536) if ready else b""
            except OSError:  # what Linux says when the other end is closed
                data = b""
            if not data:
                raise RuntimeError(f"{command} drew nothing: {screen[-500:]!r}")
            screen += data
            if footer in screen.partition(ALTERNATE_SCREEN)[2]:
                return time.perf_counter() - start, has_torch(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(master)


def has_torch(pid: int) -> bool:
    """Whether a process has loaded torch's libraries. Linux only; elsewhere the tests of the app say it."""
    maps = Path(f"/proc/{pid}/maps")
    return maps.exists() and "libtorch" in maps.read_text()


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: Few runs.

    Returns:
        One row: medians in seconds, and their ratio.
    """
    runs = QUICK_RUNS if quick else RUNS
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tui"), *sys.path[1:]]),
            "LLMMAGIC_DATA_DIR": folder,
            "LLMMAGIC_CONFIG_DIR": folder,
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
        }
        bare = ([sys.executable, "-c", BARE_APP], BARE_FOOTER)
        ours = ([sys.executable, "-m", "llmmagic_tui", "tiny-random"], OUR_FOOTER)
        for app in (bare, ours):  # bytecode and disk cache
            first_frame_s(*app, environment)
        times: dict[str, list[float]] = {"bare": [], "ours": []}
        torch = False
        for _ in range(runs):
            times["bare"].append(first_frame_s(*bare, environment)[0])
            seconds, loaded = first_frame_s(*ours, environment)
            times["ours"].append(seconds)
            torch = torch or loaded
    result = row("first paint of `llmchat`", "s", times["ours"], times["bare"], "bare Textual app", TARGET, "lower")
    if torch:
        result["target"], result["passed"] = f"{result['target']}, without torch in the process", False
    return [result]
