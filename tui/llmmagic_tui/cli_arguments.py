"""The arguments of ``llmchat`` and of its commands. Imports nothing heavy: ``--help`` and completion are instant."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, get_args

from llmmagic import __version__
from llmmagic.core.config import EngineName, GGUFType, Overflow, Quantization
from llmmagic.core.errors import did_you_mean

BUILT_IN_MODELS = {"demo": "SmolLM2-135M-Instruct, small enough for any machine", "tiny-random": "random weights"}
EXPORT_FORMATS = ("md", "json", "jsonl")
SHELLS = ("bash", "zsh", "fish")
PLACES = ("conversations", "config", "data", "cache")
CONVERSATION_HELP = "its id, the beginning of its id, or 'last'"


class Parser(argparse.ArgumentParser):
    """A parser that knows what a misspelt word was meant to be."""

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse, and refuse what is not known with the nearest known option.

        Raises:
            SystemExit: With status 2, after a line on stderr.
        """
        parsed, unknown = self.parse_known_args(argv)
        if unknown:
            given = unknown[0].partition("=")[0]
            self.error(f"unknown argument {given!r}. {did_you_mean(given, self._option_string_actions)}".rstrip())
        return parsed

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            hint = did_you_mean(str(value), choices)
            raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(choices)}. {hint}".rstrip())

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


@dataclass(frozen=True)
class Command:
    """A word that does something other than starting a chat.

    Attributes:
        help: One line.
        arguments: Adds its arguments to a parser.
    """

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]


def _limit(parser: argparse.ArgumentParser, default: int, what: str) -> None:
    parser.add_argument(
        "-n", "--limit", type=positive, default=default, metavar="N", help=f"most {what} (default {default})"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs: JSON")


def _conversation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("conversation", metavar="ID", help=CONVERSATION_HELP)


def _list(parser: argparse.ArgumentParser) -> None:
    _limit(parser, 50, "conversations")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs: JSON")
    form.add_argument("--ids", action="store_true", help="for programs: only the ids")


def _restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("conversation", metavar="ID", help="the whole id, as 'delete' printed it")


def _export(parser: argparse.ArgumentParser) -> None:
    _conversation(parser)
    parser.add_argument("--format", choices=EXPORT_FORMATS, default="md", help="default md")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write to a file instead of standard output")


def _search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="+", metavar="WORD", help="messages that have all of these")
    _limit(parser, 20, "messages")
    _json(parser)


def _path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("place", nargs="?", choices=PLACES, default="conversations", help="default conversations")


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help='put  eval "$(llmchat completion bash)"  into ~/.bashrc')


COMMANDS: dict[str, Command] = {
    "list": Command("list the conversations, newest first", _list),
    "show": Command("print a conversation", _conversation),
    "search": Command("find messages", _search),
    "export": Command("write a conversation as Markdown, JSON or training data (JSONL)", _export),
    "delete": Command("delete a conversation", _conversation),
    "restore": Command("bring back a deleted conversation", _restore),
    "path": Command("print where conversations or settings are kept", _path),
    "completion": Command("print the completion script for a shell", _completion),
}


def positive(text: str) -> int:
    """A whole number of at least 1, as an argparse type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes."""
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where conversations are kept")


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Add the options of a chat. What is not given is left to the settings."""
    model = parser.add_argument_group("model")
    model.add_argument("--adapter", metavar="PATH", help="PEFT adapter to put on top: a folder or Hub id")
    model.add_argument("--quantization", choices=get_args(Quantization), help="format of the weights")
    model.add_argument("--engine", choices=get_args(EngineName), help="who generates (default: the fastest that can)")
    model.add_argument(
        "--gguf-type",
        choices=get_args(GGUFType),
        help="what the weights become for llama.cpp (default: q8_0 if it fits)",
    )
    model.add_argument(
        "--base-url", metavar="URL", help="an OpenAI-compatible server that the model runs on; MODEL is its name there"
    )
    model.add_argument(
        "--key-over-http", action="store_true", default=None, help="send the key unencrypted to another machine"
    )
    model.add_argument("--context", type=int, metavar="N", help="most tokens of prompt and reply together")
    chat = parser.add_argument_group("conversation")
    chat.add_argument("-p", "--prompt", metavar="TEXT", help="print the answer and exit; piped input comes after TEXT")
    chat.add_argument("--system", metavar="TEXT", help="system prompt of a new conversation")
    chat.add_argument("--conversation", metavar="ID", help=f"go on with a conversation: {CONVERSATION_HELP}")
    chat.add_argument(
        "--overflow", choices=get_args(Overflow), help="when the window is full: drop the oldest turns, or stop"
    )
    reply = parser.add_argument_group("reply")
    reply.add_argument("--max-new-tokens", type=int, metavar="N", help="most tokens of a reply")
    reply.add_argument("--temperature", type=float, metavar="T", help="0 always takes the likeliest token")
    reply.add_argument("--seed", type=int, metavar="S", help="same seed, same reply")
    web = parser.add_argument_group("browser")
    web.add_argument("--web", action="store_true", help="serve the app in a browser of this machine")
    web.add_argument("--port", type=int, metavar="N", help="for --web (default: any free one)")


def chat_parser() -> Parser:
    """The parser of ``llmchat [MODEL]``."""
    width = max(map(len, COMMANDS))
    parser = Parser(
        prog="llmchat",
        usage="llmchat [MODEL] [options]\n       echo TEXT | llmchat [MODEL] [options]\n       llmchat COMMAND ...",
        description="Chat with a language model in the terminal. With piped input or -p it is a filter: it prints "
        "the answer and exits.",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
        + "\n\nA model folder that is called like a command is reached with ./ before its name.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a Hub id (org/name), a folder, a .gguf file, demo or tiny-random (default: the last one used, else demo)",
    )
    parser.add_argument("--version", action="version", version=f"llmchat {__version__}")
    add_common(parser)
    add_chat(parser)
    return parser


def command_parser(name: str) -> Parser:
    """The parser of ``llmchat NAME``."""
    command = COMMANDS[name]
    parser = Parser(prog=f"llmchat {name}", description=f"{command.help[0].upper()}{command.help[1:]}.")
    parser.allow_abbrev = False
    command.arguments(parser)
    add_common(parser)
    return parser


def split_command(argv: Sequence[str], parser: Parser) -> tuple[str | None, list[str]]:
    """Find the command among the arguments: it may stand behind options (``llmchat --data-dir D list``).

    Args:
        argv: The arguments.
        parser: The parser of the chat: knows which options take a value.

    Returns:
        The command and the arguments without it, or ``None`` and all arguments.
    """
    options = parser._option_string_actions
    skip = False
    for index, word in enumerate(argv):
        if skip:
            skip = False
        elif word == "--":
            break
        elif word.startswith("-") and word != "-":
            action = options.get(word)
            skip = action is not None and action.nargs != 0
        elif word in COMMANDS:
            return word, [*argv[:index], *argv[index + 1 :]]
        else:
            break
    return None, list(argv)


def given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, object]:
    """Those of the arguments that were given."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
