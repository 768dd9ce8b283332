"""Whose tokens are whose: the parts of a prompt, attributed to the messages they come from.

A template is a program, so its output does not say which characters came from which message. It is rendered a second
time with each text replaced by a single private character: that shows the frame around the texts. Laying the frame
over the real prompt gives each message its span: its header, its text and its end. Whatever is attributed to whom, the
parts add up to the prompt, because every token belongs to the span that it begins in.
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from llmmagic.core.chat.encoding import Piece
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.errors import ChatTemplateError

TEMPLATE, SYSTEM, DRAFT = "<template>", "<system>", "<draft>"
"""Owners that are no messages: no message id looks like them."""

JOINT = "\n\n"  # between texts that share one message
_FIRST_MARK = 0x100000  # plane 16 is for private use
_MARKS = re.compile("[\U00100000-\U0010fffd]")
_MOST_MARKS = 0xFFFE
_KEPT_FRAMES = 64


@dataclass(frozen=True, slots=True)
class Part:
    """A text and whose it is."""

    owner: str
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as the template gets it: one text, or several that share a message.

    Attributes:
        role: Of the message.
        parts: At least one.
    """

    role: str
    parts: tuple[Part, ...]

    def message(self) -> dict[str, str]:
        """What the template gets."""
        return {"role": self.role, "content": JOINT.join(part.text for part in self.parts)}


@dataclass(frozen=True, slots=True)
class Layout:
    """A rendered and encoded prompt.

    Attributes:
        text: The prompt.
        pieces: Its encoded parts.
        total: Tokens of the prompt.
        tokens: Tokens of each owner; they add up to ``total``.
    """

    text: str
    pieces: list[Piece] = field(repr=False)
    total: int
    tokens: dict[str, int]

    def ids(self) -> list[int]:
        """All token ids (T,)."""
        return [token for piece in self.pieces for token in piece.ids]


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a template puts around texts.

    Attributes:
        between: Before the first text, between the texts, after the last.
        order: Which text each gap is followed by, as indices into the parts.
        left: How much of each gap belongs to the text before it, in characters.
        lead: How much of the first gap belongs to no message.
    """

    between: tuple[str, ...]
    order: tuple[int, ...]
    left: tuple[int, ...]
    lead: int


class Surveyor:
    """Lays out prompts of one template; remembers frames, so that a growing draft costs little."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._lock = threading.Lock()  # the reply is planned in one thread, the draft counted in another
        self._frames: OrderedDict[tuple[object, ...], _Frame | None] = OrderedDict()
        self._tails: dict[tuple[str, str, str], int] = {}
        self._header: str | None = None

    def lay_out(self, entries: Sequence[Entry], *, generation_prompt: bool, suffix: Part | None = None) -> Layout:
        """Render, encode and attribute a prompt.

        Args:
            entries: Messages, oldest first.
            generation_prompt: Whether to end with the beginning of a reply.
            suffix: The beginning of that reply, to be continued.

        Returns:
            The prompt and its parts.

        Raises:
            ChatTemplateError: The template refuses the messages.
        """
        text = self._template.render([entry.message() for entry in entries], add_generation_prompt=generation_prompt)
        borders = self._borders(text, entries, generation_prompt)
        if suffix is not None:
            borders.append((len(text), suffix.owner))
            text += suffix.text
        pieces = self._template.encoder.pieces(text)
        return Layout(text, pieces, sum(len(piece.ids) for piece in pieces), self._share(pieces, borders))

    # --- frames ---------------------------------------------------------------------------------------------------

    def _frame(self, entries: Sequence[Entry], generation_prompt: bool) -> _Frame | None:
        if sum(len(entry.parts) for entry in entries) > _MOST_MARKS:
            return None
        key = (generation_prompt, *((entry.role, len(entry.parts)) for entry in entries))
        with self._lock:
            if key in self._frames:
                self._frames.move_to_end(key)
                return self._frames[key]
        try:
            frame = self._make_frame(entries, generation_prompt)
        except ChatTemplateError:  # a template that looks into the texts may refuse the marks
            frame = None
        with self._lock:
            self._frames[key] = frame
            if len(self._frames) > _KEPT_FRAMES:
                self._frames.popitem(last=False)
        return frame

    def _make_frame(self, entries: Sequence[Entry], generation_prompt: bool) -> _Frame:
        marked = _mark(entries)
        skeleton = self._render(marked, generation_prompt)
        order = tuple(ord(mark) - _FIRST_MARK for mark in _MARKS.findall(skeleton))
        between = tuple(_MARKS.split(skeleton))
        holder = [i for i, entry in enumerate(entries) for _ in entry.parts]  # part -> entry
        left = [0]
        for gap, before in enumerate(order):
            after = order[gap + 1] if gap + 1 < len(order) else None
            if after is not None and holder[after] == holder[before]:
                left.append(len(between[gap + 1]))
            else:
                role = "" if after is None else entries[holder[after]].role
                left.append(self._tail(marked, holder[before], between[gap + 1], role))
        lead = self._lead(between[0], entries[holder[order[0]]]) if order else 0
        return _Frame(between, order, tuple(left), lead)

    def _tail(self, marked: Sequence[Entry], index: int, gap: str, next_role: str) -> int:
        """How much of a gap ends the message before it: what the template writes when nothing follows."""
        role = marked[index].role
        key = (role, gap, next_role)
        if key not in self._tails:
            tail = len(gap) if role == "system" else 0
            try:
                alone = _MARKS.split(self._render(marked[: index + 1], generation_prompt=False))[-1]
                tail = len(alone) if gap.startswith(alone) else tail
            except ChatTemplateError:
                pass  # it refuses to end here: the gap goes to the message that follows
            self._tails[key] = tail
        return self._tails[key]

    def _lead(self, first: str, entry: Entry) -> int:
        """How much of the beginning belongs to no message: a start token, the template's own system prompt."""
        bos = self._template.special_tokens.get("bos_token", "")
        start = len(bos) if bos and first.startswith(bos) else 0
        if entry.role != "user":
            return start
        if self._header is None:
            self._header = self._user_header()
        if self._header and first.endswith(self._header):
            return len(first) - len(self._header)
        return start

    def _user_header(self) -> str:
        """What the template writes before a user message that is not the first."""
        talk = [Entry(role, (Part("", ""),)) for role in ("user", "assistant", "user")]
        try:
            longer = self._render(_mark(talk), generation_prompt=False)
            shorter = self._render(_mark(talk[:2]), generation_prompt=False)
        except ChatTemplateError:
            return ""
        gaps, tail = _MARKS.split(longer), _MARKS.split(shorter)[-1]
        return gaps[-2].removeprefix(tail) if len(gaps) == 4 else ""

    def _render(self, entries: Sequence[Entry], generation_prompt: bool) -> str:
        return self._template.render([e.message() for e in entries], add_generation_prompt=generation_prompt)

    # --- frame over prompt ----------------------------------------------------------------------------------------

    def _borders(self, text: str, entries: Sequence[Entry], generation_prompt: bool) -> list[tuple[int, str]]:
        """Where in the text each owner's part begins, in order."""
        parts = [part for entry in entries for part in entry.parts]
        frame = self._frame(entries, generation_prompt)
        if frame is None or not frame.order or not text.startswith(frame.between[0]):
            return [(0, TEMPLATE), *_search(text, parts)]
        borders = self._lead_borders(text[: frame.lead], parts[frame.order[0]].owner)
        position = len(frame.between[0])
        for i, index in enumerate(frame.order):
            gap, last = frame.between[i + 1], i + 1 == len(frame.order)
            tail = frame.left[i + 1]
            found = _end_of(text, position, parts[index].text, gap, tail, last=last)
            if found is None:  # the template treats this text in a way of its own
                return borders + _search(text, parts[index + 1 :], position)
            end, same = found
            borders.append((end + tail, TEMPLATE if last else parts[frame.order[i + 1]].owner))
            position = end + same
        return borders

    def _lead_borders(self, lead: str, first: str) -> list[tuple[int, str]]:
        """The beginning that belongs to no message: a start token, then maybe a system prompt of the template's own."""
        special = self._template.encoder.special
        words = lead if special is None else special.sub("", lead)
        if not any(char.isalnum() for char in words):
            return [(0, TEMPLATE), (len(lead), first)]
        bos = self._template.special_tokens.get("bos_token", "")
        start = len(bos) if bos and lead.startswith(bos) else 0
        return [(0, TEMPLATE), (start, SYSTEM), (len(lead), first)]

    def _share(self, pieces: Sequence[Piece], borders: Sequence[tuple[int, str]]) -> dict[str, int]:
        """Tokens of each owner: a token belongs to whose part it begins in."""
        begins = [piece.begin for piece in pieces]
        before = [0, *accumulate(len(piece.ids) for piece in pieces)]

        def tokens_before(position: int) -> int:
            i = bisect_right(begins, position) - 1
            return before[i] + self._template.encoder.tokens_before(pieces[i], position - begins[i]) if i >= 0 else 0

        cuts = [tokens_before(position) for position, _ in borders[1:]]
        shares: dict[str, int] = {}
        for (_, owner), low, high in zip(borders, [0, *cuts], [*cuts, before[-1]], strict=True):
            shares[owner] = shares.get(owner, 0) + high - low
        return shares


def _end_of(text: str, start: int, content: str, gap: str, tail: int, *, last: bool) -> tuple[int, int] | None:
    """Where a content ends, and how much of the gap that should follow it does.

    Args:
        text: The prompt.
        start: Where the content begins.
        content: As it was given; the template may have stripped it, or taken the thinking out.
        gap: What the frame has after it. If the next text brings a thinking part, its end may differ.
        tail: How much of the gap belongs to this content, in characters.
        last: Whether the gap is the end of the prompt.
    """
    # Most templates leave a content as it is, some strip it.
    ends = [start + len(form) for form in (content, content.strip()) if text.startswith(form, start)]
    for end in ends:
        if text[end:] == gap if last else text.startswith(gap, end):
            return end, len(gap)
    if last and len(text) - len(gap) >= start and text.endswith(gap):
        return len(text) - len(gap), len(gap)
    for end in ends:
        same = _same(text[end : end + len(gap)], gap)
        if same >= max(tail, 1):
            return end, same
    for sure in (gap, gap[:tail]):
        if sure and (end := text.find(sure, start)) >= 0:
            return end, tail + _same(text[end + tail : end + len(gap)], gap[tail:])
    return None


def _same(one: str, other: str) -> int:
    """Length of the beginning that two texts share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (left, right) in pairs if left != right), min(len(one), len(other)))


def _search(text: str, parts: Sequence[Part], start: int = 0) -> list[tuple[int, str]]:
    """Borders by looking for the contents one after another; a part not found has no tokens."""
    borders = []
    for part in parts:
        found = text.find(part.text.strip(), start) if part.text.strip() else -1
        if found >= 0:
            borders.append((found, part.owner))
            start = found + len(part.text.strip())
    return borders


def _mark(entries: Sequence[Entry]) -> list[Entry]:
    """The same messages with a private character for each text."""
    marked, count = [], 0
    for entry in entries:
        parts = tuple(Part(p.owner, chr(_FIRST_MARK + count + i)) for i, p in enumerate(entry.parts))
        marked.append(Entry(entry.role, parts))
        count += len(parts)
    return marked
