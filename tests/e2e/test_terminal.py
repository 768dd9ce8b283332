"""``llmchat`` in a real terminal, as a person uses it: talk, overflow, ask again, leave, come back."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from tests.e2e.terminal import Terminal
from tests.tui.conftest import command

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tmux")
READY = "●"
CONTEXT = 512


class Chat:
    """A conversation on the screen, and the same one in the store."""

    def __init__(self, terminal: Terminal, database: Path, *, timeout_s: float) -> None:
        self.terminal = terminal
        self.timeout_s = timeout_s
        self._database = database

    def conversation(self) -> Conversation:
        """The conversation that was changed last."""
        with ConversationStore(self._database) as store:
            return store.load(store.list(limit=1)[0].id)

    def finished_replies(self) -> int:
        """How many replies are complete, on all branches."""
        with ConversationStore(self._database) as store:
            talks = [store.load(summary.id) for summary in store.list()]
        return sum(m.role == "assistant" and not m.partial for talk in talks for m in talk)

    def write(self, text: str) -> str:
        """Type a draft and wait until its tokens are counted."""
        self.terminal.type(text)
        # What sending would drop is said in place of the figures of each part.
        return self.terminal.wait_for_match(r"Sending drops|draft \d+", text[:40], timeout_s=self.timeout_s)

    def send(self) -> str:
        """Send the draft and wait for the end of the reply."""
        return self.and_wait("Enter")

    def and_wait(self, key: str) -> str:
        """Press a key that starts a reply, and wait for its end."""
        count = self.finished_replies()
        self.terminal.press(key)
        end = time.monotonic() + self.timeout_s
        while self.finished_replies() == count:
            assert time.monotonic() < end, self.terminal.screen()
            time.sleep(0.1)
        # The store is written first, the screen after it.
        return self.terminal.wait_for(READY, timeout_s=self.timeout_s, gone=["draft", "Sending drops", "◔"])


def start(environment: dict[str, str], tmp_path: Path, *arguments: str) -> Terminal:
    return Terminal(command(*arguments), env=environment, columns=100, rows=40, cwd=tmp_path)


@pytest.fixture(params=["tiny-random", pytest.param("demo", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "conversations.db"


def quit_and_wait(terminal: Terminal) -> None:
    terminal.press("C-q")
    terminal.wait_for("exit status 0", timeout_s=30)


def test_a_conversation_from_start_to_restart(
    model: str, environment: dict[str, str], tmp_path: Path, database: Path
) -> None:
    timeout_s = 60.0 if model == "tiny-random" else 240.0
    if model == "demo":  # as people use it: with the engine that is fastest here
        environment = environment | {"LLMCHAT_ENGINE": "auto"}
    arguments = (model, "--context", str(CONTEXT), "--max-new-tokens", "60", "--temperature", "0")
    with start(environment, tmp_path, *arguments) as terminal:
        chat = Chat(terminal, database, timeout_s=timeout_s)
        # The first message may be typed while the model loads: it is sent when it is ready.
        terminal.wait_for("Write a message")
        terminal.type("What is the tallest mountain?")
        terminal.press("Enter")
        end = time.monotonic() + timeout_s
        while not database.exists() or chat.finished_replies() < 1:
            assert time.monotonic() < end, terminal.screen()
            time.sleep(0.2)
        screen = terminal.wait_for(READY, "You", "What is the tallest mountain?", timeout_s=timeout_s, gone=["◔"])
        assert re.search(rf"\d+ of {CONTEXT} tokens \(\d+%\)", screen)

        # Two more turns; the window shows what is on the screen.
        for question in ("How tall is it, in metres?", "Who climbed it first?"):
            chat.write(question)
            chat.send()
            assert chat.conversation().path()[-2].content == question

        # Go on until sending drops something: it is announced before, and drawn after.
        dropped = False
        for number in range(12):
            draft = chat.write(f"Tell me more about it, please, in other words, part {number}.")
            announced = re.search(r"Sending drops (\d+) turns? \((\d+) tokens\)", draft)
            screen = chat.send()
            used = re.search(rf"(\d+) of {CONTEXT} tokens", screen)
            assert used is not None
            assert int(used.group(1)) <= CONTEXT
            if announced:
                dropped = True
                break
            assert "no longer sees" not in screen
        assert dropped
        # The line may have scrolled away; the detail view has every message with what became of it.
        terminal.press("F2")
        # The title is painted first, the table a moment later, when it knows its width.
        details = terminal.wait_for_match(r"share +window +text", "Context window", timeout_s=20)
        assert re.search(r"\bout\b", details), details
        assert re.search(r"\bin\b", details), details
        terminal.press("Escape")
        terminal.wait_for(READY, gone=["Context window"])

        # Another reply beside the last one: a branch, and the old one stays.
        first = chat.conversation().path()[-1]
        screen = chat.and_wait("C-r")
        assert "2/2" in screen
        second = chat.conversation().path()[-1]
        assert second.parent == first.parent
        assert second.id != first.id
        assert first.id in chat.conversation()

        path = [message.content for message in chat.conversation().path()]
        quit_and_wait(terminal)

    # Come back: everything is there, on the branch it was left on, and the talk goes on.
    with start(environment, tmp_path, *arguments, "--conversation", "last") as terminal:
        chat = Chat(terminal, database, timeout_s=timeout_s)
        terminal.wait_for("2/2", READY, timeout_s=timeout_s, gone=["◔"])
        assert [message.content for message in chat.conversation().path()] == path
        chat.write("And which is the second tallest?")
        chat.send()
        assert len(chat.conversation().path()) == len(path) + 2
        quit_and_wait(terminal)

    shown = subprocess.run(command("show", "last"), capture_output=True, env=environment, check=True).stdout.decode()
    for text in path:
        assert text in shown


def test_screen_is_usable_at_80x24_and_after_resizing(environment: dict[str, str], tmp_path: Path) -> None:
    with Terminal(command("tiny-random"), env=environment, columns=80, rows=24, cwd=tmp_path) as terminal:
        screen = terminal.wait_for(READY, "Write a message", "tiny-random", "Send", "Help")
        assert all(len(line) <= 80 for line in screen.splitlines())
        terminal.resize(200, 50)
        screen = terminal.wait_for("Search all messages", "Write a message")
        assert max(len(line) for line in screen.splitlines()) > 150
        terminal.resize(40, 12)
        terminal.wait_for("Write a message", gone=["Search all messages"])
        terminal.press("F1")
        terminal.wait_for("Everywhere")
        terminal.press("Escape")
        quit_and_wait(terminal)


@pytest.fixture
def killed_model(environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[Terminal, int]]:
    """The app with a model whose process can be killed."""
    import psutil

    # Greedy: its random weights then never choose the token that ends a reply. Without repetitions: those are drafted,
    # and the reply would be over before anything can be killed.
    environment = environment | {"LLMCHAT_REPETITION_PENALTY": "5"}
    with start(environment, tmp_path, "tiny-random", "--max-new-tokens", "1500", "--temperature", "0") as terminal:
        terminal.wait_for(READY)
        children = psutil.Process(terminal.program_pid()).children(recursive=True)
        workers = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
        assert len(workers) == 1
        yield terminal, workers[0].pid


def test_model_that_dies_costs_a_restart_and_not_the_conversation(
    killed_model: tuple[Terminal, int], database: Path
) -> None:
    import psutil

    terminal, pid = killed_model
    chat = Chat(terminal, database, timeout_s=60)
    terminal.type("Tell me a very long story.")
    terminal.press("Enter")
    terminal.wait_for("Assistant")
    psutil.Process(pid).kill()
    terminal.wait_for("F9 starts it again")
    reply = chat.conversation().path()[-1]
    assert reply.partial
    assert reply.content
    terminal.press("F9")
    terminal.wait_for(READY, "tiny-random ·")
    chat.write("Are you back?")
    chat.send()
    assert [message.role for message in chat.conversation().path()] == ["user", "assistant"] * 2
    quit_and_wait(terminal)
