"""A script without a front end: lines of plain text, each only once."""

from __future__ import annotations

import sys
import time

from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic.magics.text import bar_text, card_text, note_text, reply_text
from llmmagic.magics.views.card import Card
from llmmagic.magics.views.reply import ReplyCard

_LINE_EVERY_S = 10.0
_LINE_EVERY = 0.25  # of a bar


def write(text: str, end: str = "\n") -> None:
    """Write to standard output, whatever its encoding."""
    try:
        sys.stdout.write(text + end)
    except UnicodeEncodeError:  # a Windows console or a pipe with a legacy code page
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write((text + end).encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


class PlainCardScreen:
    """A line when a bar begins, now and then while it moves, and when it is full; the card in the end."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[float, float]] = {}  # label -> share done, time

    def draw(self, state: Card) -> None:
        """Print what is new."""
        for bar in state.bars:
            now, done = time.monotonic(), bar.done or 0.0
            before, when = self._said.get(bar.label, (-1.0, now))
            full = done >= 1 > before
            if before < 0 or full or done - before >= _LINE_EVERY or now - when >= _LINE_EVERY_S:
                if not self._said:
                    write(one_line(state.title))
                write(bar_text(bar))
                self._said[bar.label] = (done, now)

    def close(self, state: Card) -> None:
        """Print the card."""
        write(card_text(state))


class PlainReplyScreen:
    """The text as it comes, then the figures."""

    def __init__(self) -> None:
        self._written = 0
        self._notes = 0

    def draw(self, state: ReplyCard) -> None:
        """Print what is new."""
        self._write_notes(state)
        new = state.text[self._written :]
        if new:
            write(strip_controls(new), end="")
            self._written = len(state.text)

    def close(self, state: ReplyCard) -> None:
        """Print the rest and the line beneath."""
        if not self._written:
            write(reply_text(state))
            return
        self.draw(state)
        write("" if state.text.endswith("\n") else "\n", end="")
        write(f"[{one_line(state.footer or 'stopped')}]")

    def _write_notes(self, state: ReplyCard) -> None:
        for note in state.notes[self._notes :]:
            write(note_text(note))
        self._notes = len(state.notes)


class PlainFrontEnd:
    """Plain text on standard output."""

    colour = False
    attended = None  # no widgets

    def card_screen(self) -> PlainCardScreen:
        """Lines as things go on."""
        return PlainCardScreen()

    def reply_screen(self, *, raw: bool) -> PlainReplyScreen:
        """The text as it comes; it is raw anyway."""
        return PlainReplyScreen()

    def show(self, card: Card) -> None:
        """Print the card."""
        write(card_text(card))

    def say(self, text: str) -> None:
        """Print one line."""
        write(one_line(text))
