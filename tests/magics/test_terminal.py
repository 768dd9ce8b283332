"""IPython in a terminal: rich, in a real pseudo-terminal."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmmagic.magics.screens.terminal import TerminalFrontEnd, render_card
from llmmagic.magics.views.card import Bar, Card, Note
from llmmagic.magics.views.reply import ReplyCard
from tests.magics.conftest import ROOT, ROWS

SCRIPT = f"""
from IPython.terminal.interactiveshell import TerminalInteractiveShell
from traitlets.config import Config
config = Config()
config.HistoryManager.enabled = False
config.TerminalInteractiveShell.term_title = False
shell = TerminalInteractiveShell.instance(config=config)
shell.run_line_magic("load_ext", "llmmagic")
shell.user_ns["rows"] = {ROWS!r}
while True:
    cell = input("IN> ").replace("|", "\\n")
    print("OK" if shell.run_cell(cell).success else "FAILED")
"""


@pytest.fixture(scope="module")
def terminal() -> Iterator[Any]:
    """A shell in a pseudo-terminal; takes cells with ``|`` for newlines."""
    pexpect = pytest.importorskip("pexpect")
    if not hasattr(pexpect, "spawn"):
        pytest.skip("no pseudo-terminals on Windows")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tui")]),
        "TERM": "xterm-256color",
        "OMP_NUM_THREADS": "1",
        "IPYTHONDIR": os.environ["LLMMAGIC_CACHE_DIR"],
    }
    child = pexpect.spawn(
        sys.executable, ["-c", SCRIPT], env=environment, encoding="utf-8", timeout=120, dimensions=(40, 100), echo=False
    )
    child.expect("IN> ")
    run(child, "%llm_load tiny-random")
    yield child
    child.close(force=True)


def run(child: Any, cell: str, *, interrupt_at: str | None = None) -> str:
    """Run a cell; gives what was written, escape sequences included."""
    child.sendline(cell)
    written = ""
    if interrupt_at is not None:
        child.expect(interrupt_at)
        written = child.before
        child.sendintr()
    child.expect("(OK|FAILED)\r\nIN> ")
    return f"{written}{child.before}{child.match[1]}"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_card_in_colour(terminal: Any) -> None:
    written = run(terminal, "%llm_load tiny-random")
    assert "\x1b[1m" in written
    shown = plain(written)
    assert "Context window" in shown
    assert "loaded already" in shown
    assert shown.endswith("OK")


def test_a_reply_with_figures(terminal: Any) -> None:
    shown = plain(run(terminal, "%llm_chat --new --seed 1 --max-new-tokens 60 What is bursitis?"))
    assert "tokens/s · first token after" in shown
    assert shown.endswith("OK")


def test_an_error_is_one_line(terminal: Any) -> None:
    shown = plain(run(terminal, "%llm_load no-such-model"))
    assert shown.endswith("FAILED")
    assert "Traceback" not in shown
    assert shown.lstrip().startswith("ModelNotFoundError: 'no-such-model'")


def test_ctrl_c_stops_training_and_keeps_the_adapter(terminal: Any, tmp_path: Path) -> None:
    cell = f"%%llm_train cut --data rows|max_steps: 100000|output_dir: {tmp_path.as_posix()}"
    shown = plain(run(terminal, cell, interrupt_at="of 100,000"))
    assert "stopped at step" in shown
    assert shown.endswith("OK")
    assert (tmp_path / "adapter_config.json").exists()


def drawn(what: Any, *, height: int = 12) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, height=height, force_jupyter=False)
    console.print(what)
    return stream.getvalue()


def test_names_are_not_markup() -> None:
    card = Card("[bold]x[/bold] \x1b]0;t\x07", "done", facts=(("[red]a", "[link=http://x]b"),), notes=(Note("[/]"),))
    shown = plain(drawn(render_card(card)))
    assert "[bold]x[/bold]" in shown
    assert "[red]a" in shown
    assert "[link=http://x]b" in shown
    assert "\x1b]" not in drawn(render_card(card))


def test_a_bar_without_an_end() -> None:
    assert "Download" in plain(drawn(render_card(Card("Loading x", "running", bars=(Bar("Download", None, "3 MB"),)))))


def test_a_reply_taller_than_the_screen_shows_its_end_and_is_kept_whole() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, height=12, force_jupyter=False)
    screen = TerminalFrontEnd(console=console).reply_screen(raw=False)
    text = "\n".join(f"- line {i}" for i in range(50))
    screen.draw(ReplyCard(text, running=True))
    live = plain(stream.getvalue())
    assert "line 49" in live
    assert "line 20" not in live
    stream.truncate(0)
    screen.close(ReplyCard(text, running=False, footer="done"))
    kept = plain(stream.getvalue())
    assert all(f"line {i}\n" in kept or f"line {i} " in kept for i in range(50))


def test_no_terminal_links() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, force_jupyter=False)
    TerminalFrontEnd(console=console).reply_screen(raw=False).close(
        ReplyCard("[good](https://evil.example) \x1b]52;c;ZXZpbA==\x07", running=False)
    )
    assert "\x1b]" not in stream.getvalue()
    assert "evil.example" in stream.getvalue()
