"""A real terminal for tests: tmux, with keys in and the screen out."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pytest
from typing_extensions import Self

KEY_PAUSE_S = 0.05
ENDED = re.compile(r"^exit status \d+$", re.MULTILINE)


class Terminal:
    """A program in a window of tmux.

    The server is one of its own, without the user's configuration; it ends with the ``with`` block.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        columns: int = 100,
        rows: int = 30,
        cwd: Path | None = None,
    ) -> None:
        path = shutil.which("tmux")
        if path is None:
            pytest.skip("no tmux here")
        self._tmux = [path, "-L", f"llmchat-{uuid.uuid4().hex[:8]}", "-f", os.devnull]
        # Set by test runners and some shells, they would be stronger than the size of the window.
        env = {key: value for key, value in env.items() if key not in ("COLUMNS", "LINES")}
        # A short-lived shell would take the screen with it when the program ends: the window stays.
        line = f"{shlex.join(command)}; echo exit status $?; exec sleep 3600"
        self._run(
            "set-option", "-g", "default-terminal", "tmux-256color", ";",
            "new-session", "-d", "-x", str(columns), "-y", str(rows), line,
            env=env, cwd=cwd,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run("kill-server", check=False)

    def _run(
        self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, check: bool = True
    ) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments], capture_output=True, text=True, env=env, cwd=cwd, check=check, timeout=20
        )
        return done.stdout

    def type(self, text: str) -> None:
        """Type a text."""
        self._run("send-keys", "-l", "--", text)
        time.sleep(KEY_PAUSE_S)

    def press(self, *keys: str) -> None:
        """Press keys, as tmux calls them: ``Enter``, ``C-r``, ``Escape``, ``F2``."""
        for key in keys:
            self._run("send-keys", key)
            time.sleep(KEY_PAUSE_S)

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size."""
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> str:
        """What can be read on the screen."""
        return self._run("capture-pane", "-p")

    def program_pid(self) -> int:
        """The process of the program: the first child of the window's shell."""
        import psutil

        shell = psutil.Process(int(self._run("list-panes", "-F", "#{pane_pid}")))
        return shell.children()[0].pid

    def wait_for(self, *texts: str, timeout_s: float = 60.0, gone: Sequence[str] = ()) -> str:
        """Wait until the screen has all these texts, and none of the others.

        Raises:
            AssertionError: It did not in time; with the screen.
        """
        return self._wait(
            lambda screen: all(text in screen for text in texts) and not any(text in screen for text in gone),
            f"{texts} without {list(gone)}",
            timeout_s,
        )

    def wait_for_match(self, pattern: str, *texts: str, timeout_s: float = 60.0) -> str:
        """Wait until the screen has all these texts, and something that matches the pattern.

        Raises:
            AssertionError: It did not in time; with the screen.
        """
        return self._wait(
            lambda screen: re.search(pattern, screen) is not None and all(text in screen for text in texts),
            f"{pattern!r} and {texts}",
            timeout_s,
        )

    def _wait(self, found: Callable[[str], bool], what: str, timeout_s: float) -> str:
        end = time.monotonic() + timeout_s
        while True:
            screen = self.screen()
            if found(screen):
                return screen
            if time.monotonic() > end or ENDED.search(screen):
                raise AssertionError(f"waited for {what}:\n{screen}")
            time.sleep(0.1)
