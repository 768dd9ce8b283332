"""The thinking part of a reply, apart from its answer."""

from __future__ import annotations

from typing import NamedTuple

_OPEN, _CLOSE = "<think>", "</think>"


class Reply(NamedTuple):
    """A reply in its two parts.

    Attributes:
        thinking: What stands between the tags; ``None`` when the model did not think aloud.
        answer: The rest.
        open: Whether the thinking has not ended yet.
    """

    thinking: str | None
    answer: str
    open: bool = False


def split_reply(text: str) -> Reply:
    r"""Take a reply apart.

    Only what a reply begins with counts as thinking: later tags are talked about, not used. Some templates open the tag
    in the prompt; then the reply has only the closing one, on a line of its own.

    Args:
        text: A reply, perhaps not finished.

    Example:
        >>> split_reply("<think>\nhm\n</think>\n\nYes.")
        Reply(thinking='hm', answer='Yes.', open=False)
    """
    start = text.lstrip()
    if start.startswith(_OPEN):
        thinking, closed, answer = start[len(_OPEN) :].partition(_CLOSE)
        return Reply(thinking.strip() or None, answer.lstrip(), not closed)
    if start and _OPEN.startswith(start):  # the tag is still being written
        return Reply(None, "", True)
    thinking, closed, answer = text.partition(f"\n{_CLOSE}")
    if closed and _OPEN not in thinking and answer[:1] in ("", "\n"):
        return Reply(thinking.strip() or None, answer.lstrip())
    return Reply(None, text)


class ReplyText:
    """A reply that grows; says cheaply what belongs to which part."""

    def __init__(self, text: str = "") -> None:
        self._text = ""
        self._reply = Reply(None, "")
        self.append(text)

    @property
    def text(self) -> str:
        """All of it."""
        return self._text

    @property
    def reply(self) -> Reply:
        """Its parts so far."""
        return self._reply

    def append(self, text: str) -> str | None:
        """Add text.

        Returns:
            What is new in the answer if it only grew; ``None`` if the parts have to be looked at again.
        """
        grew = self._text + text
        settled = bool(self._text) and not self._reply.open and self._reply.answer
        tail = grew[max(len(self._text) - len(_CLOSE), 0) :]
        self._text = grew
        if settled and (self._reply.thinking is not None or _CLOSE not in tail):
            self._reply = self._reply._replace(answer=self._reply.answer + text)
            return text
        self._reply = split_reply(grew)
        return None
