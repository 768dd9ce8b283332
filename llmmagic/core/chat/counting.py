"""What messages take up that the prompt no longer has: each counted among its neighbours, and remembered.

A long conversation is not laid out as a whole for that. A message's share depends on what stands next to it, so turns
are counted in groups, with one more turn at each side that is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from llmmagic.core.chat.layout import Surveyor
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.chat.turns import Candidates, Turn

_GROUP = 32  # turns that are laid out together


@dataclass(frozen=True, slots=True)
class _Count:
    """A message's share, and what it holds for."""

    content: str
    neighbours: tuple[object, ...]
    tokens: int


class TurnCounter:
    """Counts turns of one template; each is counted once."""

    def __init__(self, template: ChatTemplate, surveyor: Surveyor) -> None:
        """Remember nothing yet.

        Args:
            template: Of the model.
            surveyor: Of that template.
        """
        self._template = template
        self._surveyor = surveyor
        self._counts: dict[str, _Count] = {}

    def missing(self, system: str | None, turns: Sequence[Turn], wanted: Iterable[int]) -> Iterator[int]:
        """Those of the turns that have not been counted as they are now, as indices."""
        return (index for index in wanted if not self._knows(system, turns, index))

    def count(self, system: str | None, turns: Sequence[Turn], wanted: Iterable[int]) -> dict[str, int]:
        """Count turns.

        Args:
            system: System prompt of the conversation.
            turns: All of the path.
            wanted: Which of them, as indices in rising order.

        Returns:
            Tokens of each of their messages, its share of the template included, where all turns are in the prompt.

        Raises:
            ChatTemplateError: The template refuses the messages.
        """
        indices = list(wanted)
        for begin, end in _runs(list(self.missing(system, turns, indices))):
            first, last = _around(turns, begin, end)
            around = turns[first:last]
            job = Candidates(self._template, self._surveyor, system, around, suffix=None, generation_prompt=False)
            shares = job.lay_out(0).tokens
            for index in range(begin, end):
                neighbours = _neighbours(system, turns, index)
                for message in turns[index].messages:
                    self._counts[message.id] = _Count(message.content, neighbours, shares.get(message.id, 0))
        return {message.id: self._counts[message.id].tokens for index in indices for message in turns[index].messages}

    def _knows(self, system: str | None, turns: Sequence[Turn], index: int) -> bool:
        neighbours = _neighbours(system, turns, index)
        counts = ((message.content, self._counts.get(message.id)) for message in turns[index].messages)
        return all(
            count is not None and count.content == content and count.neighbours == neighbours
            for content, count in counts
        )


def _answered(turn: Turn) -> bool:
    """Whether it ends with something that is not the user's; what follows does not share a message with it then."""
    parts = turn.parts()
    return bool(parts) and parts[-1][0] != "user"


def _around(turns: Sequence[Turn], begin: int, end: int) -> tuple[int, int]:
    """One turn more at each side: a template may look at what comes before, and whether anything follows.

    Questions in a row that nobody answered may be put into one message, which is then taken as a whole.
    """
    first, last = max(begin - 1, 0), min(end + 1, len(turns))
    while first > 0 and not _answered(turns[first - 1]):
        first -= 1
    while last < len(turns) and not _answered(turns[last - 1]):
        last += 1
    return first, last


def _neighbours(system: str | None, turns: Sequence[Turn], index: int) -> tuple[object, ...]:
    """What a message's share depends on besides its text. What was said before it is always the same."""
    before = _answered(turns[index - 1]) if index else ("first", system)
    return before, _answered(turns[index]), index + 1 < len(turns)


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbouring indices together, at most a group each, as begin and end."""
    for _, run in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        members = [index for _, index in run]
        for first in range(0, len(members), _GROUP):
            part = members[first : first + _GROUP]
            yield part[0], part[-1] + 1
