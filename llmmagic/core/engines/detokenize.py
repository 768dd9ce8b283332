"""From tokens to text while they come: whole characters only, each token decoded once.

One token is not one piece of text. An emoji is spread over several byte tokens, a SentencePiece token's space depends
on what is before it, and the start of a stop string must not be shown before it is known that it is none.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

# Marks of a model's reasoning: shown to the shell even where a tokenizer calls them special and would drop them.
REASONING_MARKS = frozenset({"<think>", "</think>", "[THINK]", "[/THINK]"})
_REPLACEMENT = "\ufffd"
_LONGEST_PENDING = 8  # tokens; a UTF-8 character has four bytes at most, so more than that is no unfinished character


class Detokenizer(Protocol):
    """Turns tokens into text, one at a time."""

    def feed(self, token_id: int) -> str:
        """Add a token.

        Returns:
            The text that is certain now; empty while a character is incomplete.
        """
        ...


class ByteLevelDetokenizer:
    """For byte-level BPE (GPT-2 and most models since): exact and linear, with an incremental UTF-8 decoder.

    Bytes that are no UTF-8 become U+FFFD; an unfinished character at the very end is left out.
    """

    def __init__(self, id_to_token: Callable[[int], str | None], skipped: Collection[int]) -> None:
        """Start with an empty reply.

        Args:
            id_to_token: The tokenizer's own: the token's text in the byte alphabet.
            skipped: Special tokens, which have no text.
        """
        self._id_to_token = id_to_token
        self._skipped = skipped
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token_id: int) -> str:
        """Add a token; see `Detokenizer.feed`."""
        token = None if token_id in self._skipped else self._id_to_token(token_id)
        return self._decoder.decode(_token_bytes(token)) if token else ""


class WindowDetokenizer:
    """For every other tokenizer: decodes a short window of tokens with and without the new one, and gives the rest.

    The window begins one piece of text back, so that whatever the decoder does at a start (SentencePiece strips a
    space) cancels out.
    """

    def __init__(self, decode: Callable[[list[int]], str], skipped: Collection[int]) -> None:
        """Start with an empty reply.

        Args:
            decode: Token ids to text, special tokens kept (they are left out before).
            skipped: Special tokens, which have no text.
        """
        self._decode = decode
        self._skipped = skipped
        self._window: list[int] = []
        self._done = 0  # how many tokens of the window are told already
        self._done_text = ""  # the window's text up to there

    def feed(self, token_id: int) -> str:
        """Add a token; see `Detokenizer.feed`."""
        if token_id in self._skipped:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        pending = len(self._window) - self._done
        if text.endswith(_REPLACEMENT) and pending <= _LONGEST_PENDING:
            return ""
        new = text[len(self._done_text) :]
        if new:
            self._window = self._window[self._done :]
            self._done = len(self._window)
            self._done_text = self._decode(self._window)
        return new


def make_detokenizer(tokenizer: Any) -> Detokenizer:
    """The right detokenizer for a tokenizer, for one reply.

    Args:
        tokenizer: A transformers tokenizer, fast or slow.

    Returns:
        A new one.
    """
    skipped = skipped_ids(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        from tokenizers import decoders

        if isinstance(backend.decoder, decoders.ByteLevel):
            return ByteLevelDetokenizer(backend.id_to_token, skipped)

    def decode(ids: list[int]) -> str:
        text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    return WindowDetokenizer(decode, skipped)


def skipped_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the special tokens that are no part of a reply's text."""
    special = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special.update(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return frozenset(i for i, text in special.items() if text not in REASONING_MARKS)


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-in of each byte in byte-level BPE (``bytes_to_unicode`` of GPT-2's encoder.py), inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


def _token_bytes(token: str) -> bytes:
    try:
        return bytes([_BYTES[char] for char in token])
    except KeyError:  # an added token: its text is literal
        return token.encode()


class StopStrings:
    """Finds texts that end a reply, across token borders, and holds back what may be the start of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Start with an empty reply.

        Args:
            stops: Non-empty texts.
        """
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Add text.

        Returns:
            What can be shown: nothing of a stop string, nor of what may become one. Nothing at all once one is found.
        """
        if not self._stops:
            return text
        if self.found:
            return ""
        text = self._held + text
        starts = [start for start in (text.find(stop) for stop in self._stops) if start >= 0]
        if starts:
            self.found, self._held = True, ""
            return text[: min(starts)]
        held = self._held_length(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def _held_length(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in self._stops)), 0)

    def flush(self) -> str:
        """What was held back, when the reply ends without a stop string."""
        held, self._held = self._held, ""
        return held
