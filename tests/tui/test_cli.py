"""``llmchat`` from the outside: usage, errors, exit status, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmmagic import __version__
from llmmagic_tui.cli_arguments import COMMANDS, chat_parser, split_command
from tests.tui.conftest import RunLlmchat, imported_modules

HEAVY = {"torch", "transformers", "textual", "rich", "tokenizers", "numpy", "aiohttp", "shtab", "sqlite3", "jinja2"}


def test_version(llmchat: RunLlmchat) -> None:
    done = llmchat("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"llmchat {__version__}\n", "")


def test_help_names_every_option_and_command(llmchat: RunLlmchat) -> None:
    done = llmchat("--help")
    assert done.returncode == 0
    for word in [*COMMANDS, *chat_parser()._option_string_actions]:
        assert word in done.stdout, word


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, llmchat: RunLlmchat) -> None:
    done = llmchat(name, "--help")
    assert done.returncode == 0
    assert f"usage: llmchat {name}" in done.stdout


def test_help_imports_nothing_heavy(environment: dict[str, str]) -> None:
    code = "from llmmagic_tui.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not HEAVY & imported_modules(environment, code)


def test_ctrl_c_while_modules_are_read_ends_without_a_traceback(environment: dict[str, str]) -> None:
    code = """
import sys

class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == "llmmagic_tui.cli_arguments":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Pressed())
from llmmagic_tui.__main__ import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--temprature", "1"), "unknown argument '--temprature'. Did you mean '--temperature'?"),
        (("demo", "extra"), "unknown argument 'extra'."),
        (("--temp", "1"), "unknown argument '--temp'."),  # no abbreviations: they break when an option is added
        (("--quantization", "nf5"), "argument --quantization: 'nf5' is none of auto, nf4, fp4, int8, none."),
        (("--quantization", "nf5"), "Did you mean 'nf4'?"),
        (("--temperature", "-1", "-p", "x"), "temperature must be >= 0 and <= 100, got -1.0."),
        (("--temperature", "hot"), "argument --temperature: invalid float value: 'hot'"),
        (("--max-new-tokens", "0", "-p", "x"), "max_new_tokens must be >= 1, got 0."),
        (("--context", "4", "-p", "x"), "context must be >= 16 tokens, got 4."),
        (("--port", "1", "-p", "x"), "--port needs --web"),
        (("--web", "-p", "x"), "--web and --prompt exclude each other"),
        ((), "nothing to answer: standard input and --prompt are empty"),
        (("export", "x", "--format", "htm"), "argument --format: 'htm' is none of md, json, jsonl."),
        (("export",), "the following arguments are required: ID"),
        (("list", "--limit", "0"), "argument -n/--limit: must be at least 1, got 0"),
        (("list", "--jsn"), "unknown argument '--jsn'. Did you mean '--json'?"),
        (("completion", "fsh"), "Did you mean 'fish'?"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments: tuple[str, ...], message: str, llmchat: RunLlmchat) -> None:
    done = llmchat(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_broken_config_is_one_line_and_status_1(llmchat: RunLlmchat, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text("model = \n")
    done = llmchat("-p", "hello")
    assert done.returncode == 1
    assert done.stderr.startswith("llmchat: ")
    assert "config.toml is no valid TOML" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["list", "--json"], ("list", ["--json"])),
        (["--data-dir", "list", "list"], ("list", ["--data-dir", "list"])),
        (["--data-dir=x", "list"], ("list", ["--data-dir=x"])),
        (["--web", "list"], ("list", ["--web"])),
        (["./list"], (None, ["./list"])),
        (["demo", "list"], (None, ["demo", "list"])),
        (["--", "list"], (None, ["--", "list"])),
        (["-p", "list"], (None, ["-p", "list"])),
        ([], (None, [])),
    ],
)
def test_command_is_found_behind_options(argv: list[str], expected: tuple[str | None, list[str]]) -> None:
    assert split_command(argv, chat_parser()) == expected
