"""``llmchat``: decide what was asked for, and hand over to it.

    llmchat [MODEL]              the app, in the terminal or (``--web``) in a browser
    echo TEXT | llmchat [MODEL]  a filter; ``-p TEXT`` too
    llmchat COMMAND              list, show, search, export, delete, restore, path, completion

Exit status: 0, 1 for an error (one line on stderr), 2 for bad usage, 130 after Ctrl+C, 141 when the reader of the
output went away.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from llmmagic.core.config import DATA_ENV
from llmmagic.core.errors import ConfigError, LLMMagicError
from llmmagic.core.sanitize import one_line
from llmmagic_tui.cli_arguments import Parser, chat_parser, command_parser, given, split_command

if TYPE_CHECKING:
    from llmmagic_tui.settings import Settings

EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 2, 130, 141
_WEB_DRIVER = "TEXTUAL_DRIVER"  # set by the server for the app it starts
_PARENT_S = 1.0
_SETTINGS = (
    "model", "adapter", "quantization", "engine", "gguf_type", "base_url", "key_over_http", "system", "context",
    "overflow",
)  # fmt: skip
_GENERATION = ("max_new_tokens", "temperature", "seed")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``llmchat``.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit status.

    Raises:
        SystemExit: After ``--help`` and ``--version``, and with status 2 for bad usage.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Text goes between programs as UTF-8 on every system; what a terminal has no sign for becomes "?".
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="replace")
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except LLMMagicError as err:
        complain(str(err))
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # What is still buffered would raise once more when the interpreter flushes it on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return status


def complain(message: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"llmchat: {one_line(message)}\n")


def _run(argv: Sequence[str]) -> int:
    parser = chat_parser()
    command, rest = split_command(argv, parser)
    if command is None:
        return _chat(parser.parse(argv), parser)
    arguments = command_parser(command).parse(rest)
    _set_data_dir(arguments)
    from llmmagic_tui.commands import run_command

    return run_command(command, arguments)


def _chat(arguments: argparse.Namespace, parser: Parser) -> int:
    _set_data_dir(arguments)
    if arguments.port is not None and not arguments.web:
        parser.error("--port needs --web")
    settings = _settings(arguments, parser)
    if arguments.web:
        if arguments.prompt is not None:
            parser.error("--web and --prompt exclude each other")
        return _web(arguments)
    if arguments.prompt is not None or not _is_interactive(sys.stdin):
        return _filter(arguments, settings, parser)
    if not _is_interactive(sys.stderr):  # where Textual draws
        parser.error("the app needs a terminal; for a single answer use -p TEXT")
    return _app(arguments, settings)


def _is_interactive(stream: object) -> bool:
    # In a browser the streams of the app are pipes to the server.
    return _WEB_DRIVER in os.environ or (hasattr(stream, "isatty") and bool(stream.isatty()))


def _set_data_dir(arguments: argparse.Namespace) -> None:
    if arguments.data_dir is not None:
        # The one place everything else asks, the model's process included.
        os.environ[DATA_ENV] = str(arguments.data_dir.expanduser().absolute())


def _settings(arguments: argparse.Namespace, parser: Parser) -> Settings:
    from llmmagic_tui.settings import read_settings

    settings = read_settings()
    if arguments.base_url is not None and arguments.engine not in (None, "auto", "openai"):
        parser.error(f"--base-url is for the engine openai, not for {arguments.engine}")
    try:
        return settings.changed(given(arguments, (*_SETTINGS, *_GENERATION)))
    except ConfigError as err:
        parser.error(str(err))


def _filter(arguments: argparse.Namespace, settings: Settings, parser: Parser) -> int:
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read().decode("utf-8-sig", "replace")
    prompt = "\n\n".join(part for part in (arguments.prompt or "", piped.strip()) if part.strip())
    if not prompt:
        parser.error("nothing to answer: standard input and --prompt are empty")
    for warning in settings.warnings:
        complain(warning)
    from llmmagic_tui.filter import answer

    return answer(prompt, replace(settings, warnings=()), conversation=arguments.conversation)


def _web(arguments: argparse.Namespace) -> int:
    from llmmagic_tui.web import serve

    # The data folder is in the environment by now.
    options = given(arguments, [name for name in (*_SETTINGS, *_GENERATION, "conversation") if name != "model"])
    words = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()]
    return serve([*words, *filter(None, [arguments.model])], port=arguments.port)


def _app(arguments: argparse.Namespace, settings: Settings) -> int:
    conversation = arguments.conversation
    if conversation not in (None, "last"):  # the last one may be none: the app begins one then
        from llmmagic_tui.commands import find_conversation, open_store

        with open_store() as store:
            conversation = find_conversation(store, conversation)
    if _WEB_DRIVER in os.environ:
        _end_with_server()
    # Up to the first frame nearly all that is made stays: looking for garbage in it takes a tenth of the time.
    gc.disable()
    from llmmagic_tui.app import ChatApp

    app = ChatApp(settings, conversation=conversation)
    app.run()
    return app.return_code or 0


def _end_with_server() -> None:
    """Quit when the server is gone, even if it was killed: nobody could reach this app and its model any more."""
    server = os.getppid()

    def watch() -> None:
        while os.getppid() == server:
            time.sleep(_PARENT_S)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, name="llmchat-server-watch", daemon=True).start()
