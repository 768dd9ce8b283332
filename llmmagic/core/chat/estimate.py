"""Counting without the model's tokenizer: an estimate that learns from what a server says it has counted.

Words are cut up the way byte-level tokenizers cut before they merge (GPT-2's encoder.py), and each gets the tokens that
vocabularies of 50,000 to 200,000 entries usually need for it. Each reply then brings two true numbers: its own tokens
set the scale, those of its prompt what the server's template adds.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from math import ceil

from typing_extensions import override

from llmmagic.core.chat.encoding import Encoder
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.errors import ChatTemplateError

_ADDED, _START, _END = (
    "\U000f7701",
    "\U000f7702",
    "\U000f7703",
)  # plane 15 is for private use; the layout's marks are in 16
_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{{{{ '{_START}' + message['role'] + '\\n' + message['content'] + '{_END}\\n' }}}}"
    f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '{_START}assistant\\n' }}}}{{% endif %}}"
)
_WORDS = re.compile(r" ?[^\W\d_]+|\d{1,3}| ?[^\w\s]+|_+|\s+?(?= \S)|\s+")
_COMMON = 8  # letters; words up to that length are one token more often than not
_LETTERS_PER_TOKEN = 5  # of longer ones
_IDEOGRAPHS = 0x2E80  # from here on scripts whose characters are a token each, about
_BYTES_PER_TOKEN = 4  # of scripts between
_LEAST_LEARNED = 24  # tokens; a shorter reply says little about the scale
_SCALES = (0.5, 3.0)


class EstimatingEncoder(Encoder):
    """Says about how many tokens a text is. Its ids mean nothing and are never sent."""

    def __init__(self) -> None:
        super().__init__()
        self.special = re.compile(f"[{_ADDED}{_START}{_END}]")
        self._lock = threading.Lock()
        self._scale = 1.0
        self._added = 0
        self._guessed = self._counted = 0

    @property
    @override
    def exact(self) -> bool:
        return False

    def learn_scale(self, text: str, tokens: int) -> None:
        """Take in what a text really is.

        Args:
            text: What a model wrote.
            tokens: How many tokens that was.
        """
        with self._lock:
            self._guessed += sum(weight for _, weight in _weights(text))
            self._counted += tokens
            if min(self._guessed, self._counted) >= _LEAST_LEARNED:
                self._scale = min(max(self._counted / self._guessed, _SCALES[0]), _SCALES[1])
        self._forget()

    def learn_added(self, estimated: int, tokens: int) -> None:
        """Take in what a prompt really is.

        Args:
            estimated: What it was taken for.
            tokens: How many tokens it was.
        """
        with self._lock:
            self._added = max(self._added + tokens - estimated, 0)
        self._forget()

    @override
    def _encode(self, text: str) -> tuple[int, ...]:
        return (0,) * len(self._locate(text))

    @override
    def _locate(self, text: str) -> tuple[int, ...]:
        with self._lock:
            scale, added = self._scale, self._added
        starts: list[int] = []
        begin = 0
        if text[:1] in (_ADDED, _START, _END):
            starts += [0] * (added if text[0] == _ADDED else 1)
            begin = 1
        words = [begin + start for start, weight in _weights(text[begin:]) for _ in range(weight)]
        count = max(round(len(words) * scale), 1) if words else 0
        return (*starts, *(words[index * len(words) // count] for index in range(count)))

    @override
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        raise ChatTemplateError("The tokenizer of this model is not here.", hint="Only the server can read its tokens.")


def estimating_template() -> ChatTemplate:
    """A template for counting what a server's own template will be given: each call makes one that learns by itself."""
    return ChatTemplate(EstimatingEncoder(), _TEMPLATE, {"bos_token": _ADDED})


def _weights(text: str) -> Iterator[tuple[int, int]]:
    """Where each word begins, and about how many tokens it is."""
    for match in _WORDS.finditer(text):
        word = match.group()
        letters = word.strip()
        if not letters or letters.isdigit():
            weight = 1
        elif not letters[0].isalnum():
            weight = ceil(len(letters.encode("utf-8", "replace")) / 3)
        elif letters.isascii():
            weight = 1 if len(letters) <= _COMMON else ceil(len(letters) / _LETTERS_PER_TOKEN)
        elif max(map(ord, letters)) >= _IDEOGRAPHS:
            weight = len(letters)
        else:
            weight = ceil(len(letters.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)
        yield match.start(), weight
