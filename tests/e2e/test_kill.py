"""kill -9 at random moments of a conversation: what was shown as sent is there, and the database is whole.

How many moments: 25, or as many as LLMMAGIC_KILL_ROUNDS says (some 6 s each).
"""

from __future__ import annotations

import os
import random
import re
import sqlite3
import sys
import time
from pathlib import Path

import psutil
import pytest

from llmmagic.core.chat.store import ConversationStore
from tests.e2e.terminal import Terminal
from tests.tui.conftest import command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tmux")
READY = "●"
# In the transcript, behind the mark at the left of a message; the draft in the input stands in a box.
SHOWN = re.compile(r"▎ (message \d+ of round \d+)")
ARGUMENTS = ("tiny-random", "--max-new-tokens", "150", "--conversation", "last")
LONGEST_S = 4.0
MANY = int(os.environ.get("LLMMAGIC_KILL_ROUNDS", "25"))


def written(database: Path) -> set[str]:
    """The user's messages in the database, which is checked on the way."""
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("INSERT INTO words (words) VALUES ('integrity-check')").fetchone() is None
        rows = connection.execute("SELECT content FROM messages WHERE role = 'user'").fetchall()
    connection.close()
    return {text for (text,) in rows}


def workers_of(app: psutil.Process) -> list[psutil.Process]:
    """The process of the model; Python's own helper for shared memory is another child."""
    children = app.children(recursive=True)
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def bring_back(terminal: Terminal, app: psutil.Process, dead: psutil.Process) -> None:
    """Start the model again, unless the app has done so: a message that waits for the model does not wait for F9."""
    end = time.monotonic() + 60
    while True:
        if "F9 starts it again" in terminal.screen():
            terminal.press("F9")
            break
        try:
            if any(worker.pid != dead.pid for worker in workers_of(app)):
                break
        except psutil.Error:  # the dead one, on its way out
            pass
        assert time.monotonic() < end, terminal.screen()
        time.sleep(0.05)
    terminal.wait_for(READY, "tiny-random ·", gone=["◔", "F9 starts it again"])


class Script:
    """Someone who writes one message after the other, and remembers which of them were shown as sent."""

    def __init__(self, terminal: Terminal, number: int) -> None:
        self.terminal = terminal
        self.shown: set[str] = set()
        self._round = number
        self._written = 0
        self._last = ""

    def look(self) -> str:
        """Look at the screen."""
        screen = self.terminal.screen()
        self.shown |= set(SHOWN.findall(screen))
        return screen

    def go_on(self) -> None:
        """Look, and write the next message once the last one is there."""
        screen = self.look()
        if not self._last or (self._last in self.shown and READY in screen):
            self._written += 1
            self._last = f"message {self._written} of round {self._round}"
            self.terminal.type(self._last)
            self.terminal.press("Enter")


def one_round(number: int, environment: dict[str, str], tmp_path: Path, chance: random.Random) -> set[str]:
    """Talk, and kill one of the two processes in between.

    Returns:
        What was on the screen as sent.
    """
    victim_is_app = chance.random() < 0.5
    with Terminal(command(*ARGUMENTS), env=environment, columns=100, rows=40, cwd=tmp_path) as terminal:
        terminal.wait_for(READY, "tiny-random ·", gone=["◔"])
        app = psutil.Process(terminal.program_pid())
        (worker,) = workers_of(app)
        script = Script(terminal, number)
        end = time.monotonic() + chance.uniform(0, LONGEST_S)
        while time.monotonic() < end:
            script.go_on()
        (app if victim_is_app else worker).kill()
        script.look()
        if victim_is_app:
            terminal.wait_for("exit status 137", timeout_s=20)
            # Nobody is left behind with a model in memory.
            psutil.wait_procs([worker], timeout=20)
            assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        else:
            bring_back(terminal, app, worker)
            script.go_on()
            terminal.press("C-q")
            script.look()
            terminal.wait_for("exit status 0", timeout_s=30)
    return script.shown


@pytest.mark.slow
@pytest.mark.timeout(max(1800, 30 * MANY))
@pytest.mark.parametrize("rounds", [MANY])
def test_no_message_is_lost(rounds: int, environment: dict[str, str], tmp_path: Path) -> None:
    database = tmp_path / "data" / "conversations.db"
    with ConversationStore(database):
        pass
    chance = random.Random(rounds)
    shown: set[str] = set()
    for number in range(rounds):
        shown |= one_round(number, environment, tmp_path, chance)
        assert shown <= written(database)
    assert len(shown) >= rounds / 2
