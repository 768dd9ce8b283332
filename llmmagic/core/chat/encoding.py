"""Text to token ids and back, piece by piece, so that only what changed of a prompt is encoded again.

A tokenizer looks for its special tokens first and treats what lies between them separately. So a text may be cut just
before a special token, and the ids of the parts, one after another, are the ids of the whole. A prompt of a hundred
turns of which only the draft changes costs one short encoding.
"""

from __future__ import annotations

import re
import threading
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

V = TypeVar("V")
_KEPT_PIECES = 32_768


class SlowTokenizer(Protocol):
    """A tokenizer without a ``tokenizers`` backend: anything that turns text to ids and back."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of a text."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of ids."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """An encoded part of a prompt.

    Attributes:
        begin: Where it begins in the prompt, in characters.
        text: The part.
        ids: Its tokens (T,).
    """

    begin: int
    text: str
    ids: tuple[int, ...]


class _Kept(Generic[V]):
    """What was made of texts, the least lately used forgotten first. For several threads."""

    def __init__(self, make: Callable[[str], V], most: int) -> None:
        self._make = make
        self._most = most
        self._made: OrderedDict[str, V] = OrderedDict()
        self._lock = threading.Lock()  # the reply is planned in one thread, the draft counted in another

    def __call__(self, text: str) -> V:
        with self._lock:
            if text in self._made:
                self._made.move_to_end(text)
                return self._made[text]
        value = self._make(text)
        with self._lock:
            self._made[text] = value
            if len(self._made) > self._most:
                self._made.popitem(last=False)
        return value


class Encoder(ABC):
    """Encodes prompts exactly as the tokenizer does with ``add_special_tokens=False``."""

    def __init__(self) -> None:
        self._forget()
        self.special: re.Pattern[str] | None = None
        """Finds special tokens in a text; ``None`` if they cannot be told apart from text."""
        self._uncut: frozenset[str] = frozenset()

    @property
    def exact(self) -> bool:
        """Whether the tokens are those of the model's tokenizer, not an estimate of how many there will be."""
        return True

    def _forget(self) -> None:
        """Encode everything anew from now on."""
        self._ids = _Kept(self._encode, _KEPT_PIECES)
        self._starts = _Kept(self._locate, _KEPT_PIECES)

    @abstractmethod
    def _encode(self, text: str) -> tuple[int, ...]:
        """Ids of a part."""

    @abstractmethod
    def _locate(self, text: str) -> tuple[int, ...]:
        """Where in a part each token begins, in characters (T,), never falling."""

    @abstractmethod
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids (T,)."""

    def pieces(self, text: str) -> list[Piece]:
        """Encode a text in parts.

        Args:
            text: A whole prompt.

        Returns:
            Its parts, in order.
        """
        cuts = [0]
        if self.special is not None:
            cuts += [m.start() for m in self.special.finditer(text) if m.start() and m.group() not in self._uncut]
        ends = [*cuts[1:], len(text)]
        parts = ((begin, text[begin:end]) for begin, end in zip(cuts, ends, strict=True) if begin < end)
        return [Piece(begin, part, self._ids(part)) for begin, part in parts]

    def tokens_before(self, piece: Piece, position: int) -> int:
        """How many tokens of a part begin before a position of it, in characters."""
        if position <= 0:
            return 0
        if position >= len(piece.text):
            return len(piece.ids)
        return bisect_left(self._starts(piece.text), position)

    def encode(self, text: str) -> list[int]:
        """Ids of a text (T,); nothing is added to it."""
        return [token for piece in self.pieces(text) for token in piece.ids]


class FastEncoder(Encoder):
    """Over a tokenizer of the ``tokenizers`` library."""

    def __init__(self, backend: Tokenizer) -> None:
        super().__init__()
        self.backend = backend
        added: list[Any] = [token for token in backend.get_added_tokens_decoder().values() if token.content]
        first = [token for token in added if not token.normalized]  # looked for before the text is normalised
        # Tokens that only count between spaces cannot be found without the tokenizer: then nothing is cut.
        if first and not any(token.single_word for token in first):
            # The longest at the leftmost place wins, as in the tokenizer.
            names = sorted((token.content for token in first), key=len, reverse=True)
            self.special = re.compile("|".join(map(re.escape, names)))
        # A token that takes the spaces before it, or begins with one, belongs to what is before it.
        self._uncut = frozenset(token.content for token in first if token.lstrip or token.content[0].isspace())

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._encoding(text).ids)

    def _locate(self, text: str) -> tuple[int, ...]:
        # Each token of a character that takes several begins where it does.
        return tuple(accumulate((start for start, _ in self._encoding(text).offsets), max))

    def _encoding(self, text: str) -> Encoding:
        if self.backend.truncation is not None or self.backend.padding is not None:
            # Training shares this tokenizer and may leave it like that; a copy is ours alone.
            self.backend = self.backend.from_str(self.backend.to_str())
            self.backend.no_truncation()
            self.backend.no_padding()
        return self.backend.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids (T,)."""
        return str(self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens))


class SlowEncoder(Encoder):
    """Over a tokenizer without a backend: whole texts only, and borders between messages are estimated."""

    def __init__(self, tokenizer: SlowTokenizer) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _locate(self, text: str) -> tuple[int, ...]:
        # Without offsets the tokens are spread evenly: sums stay exact, borders are near.
        count = len(self._ids(text))
        return tuple(i * len(text) // count for i in range(count))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids (T,)."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)
