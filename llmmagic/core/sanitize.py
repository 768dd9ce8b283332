"""Text from a model, a file or a server, made safe to print.

A terminal obeys what it is sent: an escape sequence in a reply can retitle the window, write to the clipboard or hide a
line, and a bidirectional override makes text read differently from what it is. Everything a shell shows that the user
has not typed goes through here first; what goes into HTML is escaped as well, by the shell.
"""

from __future__ import annotations

import re

# Escape sequences as ECMA-48 lays them out, each with its 7-bit (ESC + letter) and 8-bit (C1) introducer. Every control
# character is matched by the last line at the latest, so that nothing that is left over can form a new sequence.
_CONTROLS = re.compile(
    r"""
      (?:\x1b\]|\x9d)[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)      # OSC: window title, clipboard, hyperlinks
    | (?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x9c\n]*(?:\x1b\\|\x9c)  # DCS, SOS, PM, APC
    | (?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]                           # CSI: colours, cursor, erasing
    | \x1b[ -/]*[0-~]                                            # two characters, character sets
    | [\x00-\x08\x0b-\x1f\x7f-\x9f]                              # all other controls; tab and newline stay
    | [\u202a-\u202e\u2066-\u2069]                               # embeddings, overrides, isolates (CVE-2021-42574)
    """,
    re.VERBOSE,
)
_CARRIAGE_RETURNS = re.compile(r"\r+\n?")
_SURROGATES = re.compile("[\ud800-\udfff]")
_WHITESPACE = re.compile(r"\s+")


def strip_controls(text: str) -> str:
    r"""Remove what a terminal would obey instead of show.

    Args:
        text: Any text. A stream may be given piece by piece: a sequence that is cut in two loses its escape character
            and shows as the plain characters it consists of.

    Returns:
        The text without escape sequences, control characters (tab and newline stay, a carriage return becomes a
        newline) and bidirectional overrides; lone surrogates, which no stream can encode, become U+FFFD.

    Example:
        >>> strip_controls("a\x1b[31mred\x1b[0m b")
        'ared b'
    """
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", _CARRIAGE_RETURNS.sub("\n", text)))


def one_line(text: str, limit: int | None = None) -> str:
    r"""A name or message as it goes into one line.

    Args:
        text: Any text.
        limit: Most characters; what is longer ends in an ellipsis.

    Returns:
        The text without control characters and with every run of whitespace folded to one space.

    Example:
        >>> one_line("a\n  b", limit=10)
        'a b'
    """
    line = _WHITESPACE.sub(" ", strip_controls(text)).strip()
    return line if limit is None or len(line) <= limit else line[: max(limit - 1, 0)].rstrip() + "…"
