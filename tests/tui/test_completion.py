"""The completion scripts, in the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from llmmagic_tui.cli_arguments import COMMANDS, SHELLS
from llmmagic_tui.completion import completion_script
from tests.tui.conftest import RunLlmchat

BASH = """
source {script}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_llmchat
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# Completion of zsh answers to a terminal only: one is made, a Tab is sent, and what `compadd` gets is printed.
ZSH = """
autoload -Uz compinit; compinit -u -d {home}/dump
eval "$(<{script})"
compadd () {{
  local -a found; builtin compadd -O found "$@"; print -rl -- $found >> {home}/found; builtin compadd "$@"
}}
zle-line-init () {{ print yes > {home}/ready }}
zle -N zle-line-init
"""


def needs(shell: str) -> str:
    path = shutil.which(shell)
    if path is None or sys.platform == "win32":
        pytest.skip(f"no {shell} here")
    return path


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "script"
    path.write_text(completion_script(request.param))
    return path


def complete_bash(script: Path, words: str, env: Mapping[str, str] | None = None) -> list[str]:
    code = BASH.format(script=script, words=words)
    done = subprocess.run([needs("bash"), "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stderr == ""
    return done.stdout.split()


def complete_fish(script: Path, line: str) -> list[str]:
    code = f"source {script}; complete -C '{line}'"
    done = subprocess.run([needs("fish"), "-c", code], capture_output=True, text=True, check=True, cwd=script.parent)
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
def test_command_prints_the_script(shell: str, llmchat: RunLlmchat) -> None:
    done = llmchat("completion", shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, completion_script(shell), "")


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash(script: Path) -> None:
    assert complete_bash(script, "llmchat ''") == [*COMMANDS, "demo", "tiny-random"]
    assert complete_bash(script, "llmchat demo --te") == ["--temperature"]
    assert complete_bash(script, "llmchat --overflow ''") == ["rolling", "stop"]
    assert complete_bash(script, "llmchat export x --format j") == ["json", "jsonl"]


@pytest.mark.parametrize("script", ["fish"], indirect=True)
def test_fish(script: Path) -> None:
    (script.parent / "my-model").mkdir()
    first = complete_fish(script, "llmchat ")
    assert {*COMMANDS, "demo", "tiny-random", "my-model/"} <= set(first)
    assert complete_fish(script, "llmchat demo --te") == ["--temperature"]
    assert complete_fish(script, "llmchat --overflow ") == ["rolling", "stop"]


@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh(script: Path) -> None:
    shell = needs("zsh")
    (script.parent / ".zshrc").write_text(ZSH.format(script=script, home=script.parent))
    # Each step waits for what it needs: a line that is typed before the shell asks for one is not completed.
    code = f"""
    zmodload zsh/zpty
    await () {{ for i in {{1..150}}; do grep -qsx -- $1 {script.parent}/$2 && return; sleep 0.2; done }}
    zpty shell ZDOTDIR={script.parent} {shell} -i
    await yes ready
    type_and_await () {{ zpty -w -n shell $1$'\\t'; await $2 found; zpty -w -n shell $'\\x15' }}
    type_and_await 'llmchat ' tiny-random
    type_and_await 'llmchat demo --te' --temperature
    type_and_await 'llmchat --overflow ' stop
    """
    subprocess.run([shell, "-c", code], check=True, capture_output=True, timeout=60)
    found = set((script.parent / "found").read_text().split())
    assert {*COMMANDS, "demo", "tiny-random", "rolling", "stop"} <= found
