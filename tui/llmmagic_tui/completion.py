"""``llmchat completion SHELL``: the script that completes options, commands, models and conversation ids."""

from __future__ import annotations

import argparse

import shtab

from llmmagic_tui.cli_arguments import BUILT_IN_MODELS, COMMANDS, add_chat, add_common

# The ids come from the store, at the moment of completing; the titles of zsh and fish would need their own quoting.
_IDS = "llmchat list --ids 2>/dev/null"
_PREAMBLE = {
    "bash": f'_llmchat_ids() {{ compgen -W "last $({_IDS})" -- "$1"; }}',
    "zsh": f'_llmchat_ids() {{ compadd last ${{(f)"$({_IDS})"}}; }}',
    "fish": "",
}
_ID_COMPLETION = {"bash": "_llmchat_ids", "zsh": "_llmchat_ids", "fish": f"(echo last; {_IDS})"}
# A model may be a folder: bash falls back to files by itself, fish has to be told.
_EPILOG = {
    "bash": "",
    "zsh": "",
    "fish": "complete -c llmchat -n '_shtab_llmchat_using; and test $_shtab_llmchat_npos -eq 0' "
    "-a '(__fish_complete_directories)'\n",
}


def completion_script(shell: str) -> str:
    """The script for a shell.

    Args:
        shell: ``"bash"``, ``"zsh"`` or ``"fish"``.

    Returns:
        What the shell has to evaluate.
    """
    # To a completer the models are commands, too: words that can stand first and take the options of a chat.
    parser = argparse.ArgumentParser(prog="llmchat", description="Chat with a language model")
    parser.add_argument("--version", action="store_true", help="print the version")
    add_common(parser)
    add_chat(parser)
    words = parser.add_subparsers()
    for name, command in COMMANDS.items():
        child = words.add_parser(name, help=command.help)
        command.arguments(child)
        add_common(child)
        _complete_values(child)
    for name, what in BUILT_IN_MODELS.items():
        child = words.add_parser(name, help=what)
        add_common(child)
        add_chat(child)
        _complete_values(child)
    _complete_values(parser)
    return shtab.complete(parser, shell, preamble=_PREAMBLE[shell]) + _EPILOG[shell]


def _complete_values(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if action.dest in ("data_dir", "adapter"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]  # shtab reads the attribute
        elif action.dest == "output":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.dest == "conversation":
            action.complete = _ID_COMPLETION  # type: ignore[attr-defined]
