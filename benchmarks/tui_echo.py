"""From key to echo while the model generates at full speed: the app as it is used, on a pseudo-terminal.

Keys are typed one by one; the time runs until the character is in what the app writes to the terminal. The same is
measured while nothing is generated: that is the peer.

    python -m benchmarks tui_echo [--quick]
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from benchmarks.peers import time_row

ROOT = Path(__file__).resolve().parents[1]
KEYS, QUICK_KEYS = 200, 40
TARGET_S = 0.030
LOAD_S, ECHO_S, GAP_S = 300.0, 5.0, 0.06
READY = "●".encode()
# Not in the interface, and nothing that a model often says: what comes back is the echo.
ALPHABET = "ѫѭѯѱѳѵѷѹѻѽ"


class Terminal:
    """The app on a terminal of its own."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        """Start it."""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._process = subprocess.Popen(
            arguments, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)

    def read(self, timeout_s: float) -> bytes:
        """What comes within a time; empty when nothing does."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return b""
        try:
            return os.read(self._master, 1 << 16)
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Type."""
        os.write(self._master, data)

    def wait_for(self, wanted: bytes, timeout_s: float) -> float:
        """Read until something comes; returns the seconds it took.

        Raises:
            TimeoutError: It did not come.
        """
        began, tail = time.perf_counter(), b""
        while (left := timeout_s - (time.perf_counter() - began)) > 0:
            tail = tail[-64:] + self.read(left)
            if wanted in tail:
                return time.perf_counter() - began
        raise TimeoutError(f"{wanted!r} did not come within {timeout_s} s")

    def drain(self, seconds: float) -> None:
        """Read and forget."""
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.read(left)

    def close(self) -> None:
        """End the app."""
        self.write(b"\x11")  # Ctrl+Q
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        os.close(self._master)


def type_keys(terminal: Terminal, count: int) -> list[float]:
    """Type keys one by one; returns the seconds until each is on screen."""
    times = []
    for number in range(count):
        key = ALPHABET[number % len(ALPHABET)].encode()
        terminal.write(key)
        times.append(terminal.wait_for(key, ECHO_S))
        terminal.drain(GAP_S)
    return times


def p95(times: list[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(times, n=20)[-1]


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: Fewer keys, and the tiny model.

    Returns:
        One row: the 95th percentile in seconds.
    """
    count = QUICK_KEYS if quick else KEYS
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tui"), *sys.path[1:]]),
            "LLMMAGIC_DATA_DIR": folder,
            "LLMMAGIC_CONFIG_DIR": folder,
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
        }
        model = "tiny-random" if quick else "demo"
        command = [sys.executable, "-m", "llmmagic_tui", model, "--max-new-tokens", "1500", "--temperature", "1"]
        terminal = Terminal(command, environment)
        try:
            terminal.wait_for(READY, LOAD_S)
            terminal.drain(1.0)
            idle = type_keys(terminal, count // 2)
            terminal.write(b"\x15")  # Ctrl+U: an empty line again
            busy: list[float] = []
            while len(busy) < count:  # a reply may end before all keys are typed: then the next one
                terminal.write(b"Write a long story about a mountain.\r")
                terminal.drain(1.0)
                busy += type_keys(terminal, min(20, count - len(busy)))
                terminal.write(b"\x1b")
                terminal.drain(0.5)
                terminal.write(b"\x15")
                terminal.drain(0.3)
        finally:
            terminal.close()
    name = "key to echo while generating, p95"
    return [time_row(name, p95(busy), TARGET_S, "the same app while idle", p95(idle), count)]
