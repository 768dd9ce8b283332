"""The commands of the pages: those that end by themselves are run as they stand, the others are understood."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic_tui.cli_arguments import chat_parser, split_command
from tests.tui.conftest import ROOT, command

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINES = sorted(
    {
        line
        for page in PAGES
        for block in re.findall(r"^```sh\n(.+?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
        if re.search(r"\bllmchat\b", line)
    }
)
MENTIONED = sorted(
    {
        line
        for page in PAGES
        if page.parent.name != "reference"
        for line in re.findall(r"`(llmchat [^`]+)`", page.read_text(encoding="utf-8"))
    }
)


def opens_the_app(line: str) -> bool:
    """Whether the line needs a terminal, or serves until it is stopped."""
    words = shlex.split(line)
    return "|" not in words and split_command(words[1:], chat_parser())[0] is None and "-p" not in words


@pytest.mark.parametrize("line", [*(line for line in LINES if opens_the_app(line)), *MENTIONED])
def test_it_is_understood(line: str) -> None:
    parser = chat_parser()
    name, rest = split_command(shlex.split(line)[1:], parser)
    if name is None:
        parser.parse(rest)  # raises SystemExit, and says why
    else:
        assert name in ("list", "show", "search", "export", "path", "restore", "delete", "completion")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the lines are written for a POSIX shell")
@pytest.mark.parametrize("line", [line for line in LINES if not opens_the_app(line)])
def test_it_runs(line: str, environment: dict[str, str], tmp_path: Path) -> None:
    with ConversationStore(tmp_path / "data" / "conversations.db") as store:
        talk = Conversation(journal=store)
        talk.add("user", "What is bursitis?")
        talk.add("assistant", "An inflamed bursa.", finish_reason="stop")
    if line.startswith("git "):
        assert shutil.which("git")
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
    words = re.sub(r"\bdemo\b", "tiny-random --max-new-tokens 8", line)
    run = f'llmchat() {{ {shlex.join(command())} "$@"; }}; {words}'
    done = subprocess.run(["bash", "-c", run], env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout or (tmp_path / "conversation.md").stat().st_size
