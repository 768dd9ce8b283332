"""``echo TEXT | llmchat``: the answer, and nothing but the answer.

Most tests call the command inside this process, where torch has been imported once; what depends on a process of its
own starts one.
"""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from llmmagic_tui.cli import main
from tests.tui.conftest import RunLlmchat, command

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")
SHORT = ("--max-new-tokens", "24", "--seed", "1", "--temperature", "1")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Ask(Protocol):
    def __call__(self, *arguments: str, piped: str = "") -> Done: ...


@pytest.fixture
def model(tiny_folder: Path) -> str:
    return str(tiny_folder)


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMMAGIC_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("LLMMAGIC_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LLMCHAT_ENGINE", "transformers")


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ask:
    """Run ``llmchat`` in this process."""

    def run(*arguments: str, piped: str = "") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped.encode())))
        status = main(arguments)
        return Done(status, *capfd.readouterr())

    return run


def test_answer_is_all_there_is(model: str, llmchat: RunLlmchat, ask: Ask) -> None:
    alone = llmchat(model, *SHORT, piped="What is the tallest mountain?\n")
    assert (alone.returncode, alone.stderr) == (0, "")
    assert len(alone.stdout) > 5
    assert alone.stdout.endswith("\n")
    # The prompt may come either way, and without a model it is the one that was used last.
    assert ask(*SHORT, "-p", "What is the tallest mountain?") == (0, alone.stdout, "")
    # Nothing is kept of what was asked in passing.
    assert ask("list", "--ids").out == ""


def test_piped_text_is_context_of_the_prompt(model: str, ask: Ask) -> None:
    both = ask(model, *SHORT, "-p", "Summarise:", piped="a long text\n").out
    assert both == ask(model, *SHORT, piped="Summarise:\n\na long text").out
    assert both != ask(model, *SHORT, piped="Summarise:").out


def test_system_prompt_and_variables_take_effect(model: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ask(model, *SHORT, piped="hi").out
    rude = ask(model, *SHORT, "--system", "Be rude.", piped="hi").out
    assert rude != plain
    monkeypatch.setenv("LLMCHAT_SYSTEM", "Be rude.")
    assert ask(model, *SHORT, piped="hi").out == rude
    monkeypatch.delenv("LLMCHAT_SYSTEM")
    monkeypatch.setenv("LLMCHAT_MAX_NEW_TOKENS", "4")
    short = ask(model, "--seed", "1", "--temperature", "1", piped="hi").out
    assert plain.startswith(short.removesuffix("\n"))
    assert len(short) < len(plain)


@pytest.mark.parametrize(
    ("arguments", "piped", "message"),
    [
        (("./nowhere",), "hi", "nowhere"),
        (("lst",), "hi", "Did you mean 'list'? is a command."),
        (("tiny-random", "--context", "64"), "x" * 500, "64"),
        (("tiny-random", "--adapter", "./nowhere"), "hi", "nowhere"),
    ],
)
def test_failure_is_one_line_and_status_1(arguments: tuple[str, ...], piped: str, message: str, ask: Ask) -> None:
    status, out, err = ask(*arguments, piped=piped)
    assert (status, out) == (1, "")
    assert err.startswith("llmchat: ")
    assert err.count("\n") == 1
    assert message in err


def test_unknown_setting_is_said_and_does_not_stop(model: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMCHAT_MODLE", "x")
    status, out, err = ask(model, *SHORT, piped="hi")
    assert (status, err) == (0, "llmchat: Unknown variable LLMCHAT_MODLE. Did you mean 'LLMCHAT_MODEL'?\n")
    assert out


@contextmanager
def output_to(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let standard output and error of this process be something else."""
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield


@posix_only
def test_reader_that_goes_away_ends_it_quietly(
    model: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    started = time.monotonic()
    with output_to(writer, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hi")))
        assert main([model, "--max-new-tokens", "1500"]) == 141
    assert time.monotonic() - started < 20
    assert capfd.readouterr() == ("", "")


@posix_only
def test_ctrl_c_stops_the_reply_with_130(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    read: list[bytes] = []

    def interrupt_at_first_word() -> None:
        read.append(os.read(reader, 1))
        if signal.getsignal(signal.SIGINT) is not before:  # else it would end the test run
            os.kill(os.getpid(), signal.SIGINT)
        while data := os.read(reader, 65536):
            read.append(data)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt_at_first_word)
    thread.start()
    with output_to(writer, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hi")))
        assert main([model, "--max-new-tokens", "1500", "--seed", "1"]) == 130
    thread.join(timeout=10)
    os.close(reader)
    assert signal.getsignal(signal.SIGINT) is before
    assert b"".join(read).endswith(b"\n")
    assert len(b"".join(read)) < 1500


@posix_only
@pytest.mark.parametrize("after_s", [0, 1.5])
def test_ctrl_c_while_it_loads_ends_it_at_once(after_s: float, model: str, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        command(model, "-p", "hi", "--max-new-tokens", "1500"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment | {"LLMCHAT_MODLE": "x"},
    )
    with process:
        assert process.stderr is not None
        assert b"LLMCHAT_MODLE" in process.stderr.readline()  # said just before it loads
        time.sleep(after_s)
        process.send_signal(signal.SIGINT)
        # Shells report a process that SIGINT ended as 130, too.
        assert process.wait(timeout=10) in (130, -signal.SIGINT)
        assert process.stderr.read() == b""


@posix_only
def test_terminal_gets_no_control_characters_and_a_pipe_gets_the_text_as_it_is(
    model: str, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty

    arguments = (model, "--max-new-tokens", "300", "--seed", "3", "--temperature", "1")
    raw = ask(*arguments, piped="hi").out
    assert CONTROLS.search(raw), "random bytes have some"

    master, slave = pty.openpty()
    shown: list[bytes] = []

    def read_all() -> None:
        try:
            while data := os.read(master, 65536):
                shown.append(data)
        except OSError:  # what Linux says when the other end is closed
            return

    thread = threading.Thread(target=read_all)
    thread.start()
    with output_to(slave, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hi")))
        assert main(arguments) == 0
    thread.join(timeout=10)
    os.close(master)
    # The line that says what is being loaded is written over; it ends with the last carriage return without a newline.
    progress, _, answer = re.sub(rb"\r+\n", b"\n", b"".join(shown)).decode().rpartition("\r")
    assert "Loading" in progress
    assert len(answer) > 100
    assert not CONTROLS.search(answer)
