"""The context window: which messages the model sees, counted exactly, before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from llmmagic.core.chat.counting import TurnCounter
from llmmagic.core.chat.layout import DRAFT, Layout, Part, Surveyor
from llmmagic.core.chat.messages import Message, WindowMark
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.chat.turns import Candidates, Turn, turns_of
from llmmagic.core.config import Overflow
from llmmagic.core.errors import ChatError, ContextOverflowError
from llmmagic.core.events import Segment, WindowReport


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What is sent.

    Attributes:
        prompt_ids: The prompt (T,).
        messages: What the template was given for it; the beginning of a reply that is continued is not among them.
        report: Whose the tokens are, and what was dropped.
    """

    prompt_ids: list[int] = field(repr=False)
    messages: list[dict[str, Any]]
    report: WindowReport


_SOON = 8  # prepared for when less than this part of the window is left: early costs idle time, late the user's
_CLEARLY = 1.5  # times the window: whatever is older than that does not fit, however the template treats it
_CHARACTERS, _FRAME_CHARACTERS = 6, 32  # that a token rarely has, and about what a template puts around a message
_COUNT_AT_ONCE = 128  # turns: some hundredths of a second


class ContextWindow:
    """Plans what the model sees.

    Example:
        >>> from llmmagic.core.chat.template import ChatTemplate
        >>> from llmmagic.core.chat.tree import Conversation
        >>> from llmmagic.core.models.tiny import make_tokenizer
        >>> window = ContextWindow(ChatTemplate.from_tokenizer(make_tokenizer()), 100)
        >>> report = window.plan(Conversation(), draft="Hello", reserve_tokens=20).report
        >>> [(segment.kind, segment.tokens) for segment in report.segments]
        [('template', 11), ('draft', 13), ('reserve', 20), ('free', 56)]
    """

    def __init__(
        self, template: ChatTemplate, context_window: int, *, overflow: Overflow = "rolling", low_water: float = 0.75
    ) -> None:
        """Set the limits.

        Args:
            template: Of the model that is talked to.
            context_window: Tokens that prompt and reply may have together.
            overflow: ``rolling`` drops the oldest turns, ``stop`` refuses.
            low_water: When turns must be dropped, so many that prompt and reserve fit into this share of the window:
                then the beginning of the prompt stays the same for many turns, and its KV cache with it.
        """
        self.template = template
        self.context_window = context_window
        self.overflow: Overflow = overflow
        self.low_water = low_water
        self._surveyor = Surveyor(template)
        self._counter = TurnCounter(template, self._surveyor)
        self._prepared: str | None = None  # the message that the next trimmed prompt begins with

    def plan(
        self,
        conversation: Conversation,
        *,
        draft: str | None = None,
        reserve_tokens: int,
        leaf: str | None = None,
        continue_reply: bool = False,
    ) -> WindowPlan:
        """Decide what the model sees.

        Without a draft, where the path ends with a user message or a reply is continued, this is a real send: the
        conversation remembers from where on its messages were in the window, so that what was dropped stays dropped.
        Everything else is a forecast and changes nothing. Where the path ends with a reply and there is no draft, it
        says what the window holds now: nothing is dropped to make room for a reply that nobody has asked for.

        Args:
            conversation: Whose active path is planned.
            draft: A message that may be sent next; ``""`` is none, but makes it a forecast.
            reserve_tokens: What the reply may need.
            leaf: End of the path, if not that of the active one: the user message that gets another reply.
            continue_reply: The path ends with a reply, and the model is to go on with it.

        Returns:
            Prompt and report.

        Raises:
            ContextOverflowError: It does not fit, with the figures. The conversation is as it was.
            ChatTemplateError: The template refuses the messages.
            ChatError: There is no reply to go on with.
        """
        path = conversation.path(leaf)
        suffix = None
        if continue_reply:
            if draft or not path or path[-1].role != "assistant":
                raise ChatError("There is no reply to go on with.", hint="The conversation must end with a reply.")
            suffix = Part(path[-1].id, path[-1].content)
        answered = bool(path) and path[-1].role == "assistant" and not draft and suffix is None
        # Where nothing has been said, what a first message would bring with it is shown.
        turns = turns_of(path, draft or (None if path else ""))
        job = Candidates(
            self.template, self._surveyor, conversation.system, turns, suffix=suffix, generation_prompt=not answered
        )
        start = _marked_start(path, turns, self.context_window)
        reserve = 0 if answered else reserve_tokens
        first, before = self._before(job, start, reserve)
        begin, layout = self._fit(job, first, before, reserve)
        if answered:
            reserve = min(reserve_tokens, self.context_window - layout.total)
        newly = [index for index in range(start, begin) if not job.turns[index].pinned]
        newly_tokens = self._newly_dropped_tokens(job, before, first if first == start else first + 1, newly)
        report = self._report(job, layout, begin, reserve, newly, newly_tokens)
        if draft is None and not answered and begin > start:
            conversation.mark(path[-1].id, WindowMark(turns[begin].messages[0].id, self.context_window))
        messages = self.template.as_given([entry.message() for entry in job.entries(begin)])
        return WindowPlan(layout.ids(), messages, report)

    def prepare(self, conversation: Conversation, *, reserve_tokens: int) -> list[int]:
        """Settle where the prompt will begin once it no longer fits, if that is soon, so that it can be read ahead.

        What will be said is not known. It is taken to be as long as what was usually said, and soon is when an eighth
        of the window more than that would not fit. From then on a send that has to drop something drops just this, as
        long as that is enough: the prompt then begins with what was read ahead, however long the message really is.

        Args:
            conversation: Whose active path ends with a reply.
            reserve_tokens: What the next reply may need.

        Returns:
            The beginning of that prompt, up to where the message would begin; empty when all will fit, nothing may be
            dropped, or no reply is there to go on from.

        Raises:
            ContextOverflowError: Not even the newest turn would fit.
            ChatTemplateError: The template refuses the messages.
        """
        path = conversation.path()
        if self.overflow == "stop" or not path or path[-1].role != "assistant":
            return []
        said = sorted((message.content for message in path if message.role == "user" and message.content), key=len)
        usual = said[len(said) // 2] if said else "Hello"

        def with_draft(draft: str) -> Candidates:
            turns = turns_of(path, draft)
            return Candidates(
                self.template, self._surveyor, conversation.system, turns, suffix=None, generation_prompt=True
            )

        job = with_draft(usual)
        start = _marked_start(path, job.turns, self.context_window)
        first, before = self._before(job, start, reserve_tokens)
        if before.total + reserve_tokens + self.context_window // _SOON <= self.context_window:
            return []
        self._prepared = None  # settled anew after each reply, or little room would be left in the end
        begin, layout = self._trim(job, first, before, reserve_tokens)
        if not job.turns[begin].messages:  # nothing but the message itself would be left
            return []
        self._prepared = job.turns[begin].messages[0].id
        # Another text instead of the usual one: what both prompts begin with does not depend on it.
        other = with_draft("?" if usual[:1] != "?" else "!").lay_out(begin).ids()
        ids = layout.ids()
        return ids[: next((i for i, pair in enumerate(zip(ids, other, strict=False)) if pair[0] != pair[1]), 0)]

    def count(self, conversation: Conversation, message_ids: Sequence[str]) -> dict[str, int]:
        """Count messages that the window no longer has: what they took up while they were in it, and would again.

        Args:
            conversation: Whose active path they are on.
            message_ids: Any messages of it. Some hundred at a time: a thousand take a good part of a second.

        Returns:
            Tokens of each, its share of the template included. Ids that are not on the path are left out.

        Raises:
            ChatTemplateError: The template refuses the messages.
        """
        wanted = frozenset(message_ids)
        turns = turns_of(conversation.path(), None)
        indices = [index for index, turn in enumerate(turns) if not wanted.isdisjoint(turn.owners)]
        counts = self._counter.count(conversation.system, turns, indices)
        return {owner: counts[owner] for owner in message_ids if owner in counts}

    def _before(self, job: Candidates, start: int, reserve: int) -> tuple[int, Layout]:
        """The prompt if nothing more is dropped, or as many of its newest turns as say that it is too long.

        A conversation that has never been cut to this window can be many times as long. Then only its end is laid out.

        Returns:
            The turn it begins with, and the prompt.
        """
        room = int(_CLEARLY * self.context_window)
        characters = room * _CHARACTERS
        while True:
            first = start if self.overflow == "stop" else _reaching(job.turns, characters, start)
            layout = job.lay_out(first)
            if first == start or layout.total + reserve > room:
                return first, layout
            characters *= 2

    def _newly_dropped_tokens(self, job: Candidates, before: Layout, laid_out: int, newly: Sequence[int]) -> int | None:
        """What turns took up that are dropped now.

        Args:
            job: All turns.
            before: A prompt that has some of them.
            laid_out: The first turn whose share in it is the one it has among all others.
            newly: The turns, as indices.

        Returns:
            Tokens; ``None`` if so many have never been counted that it would take too long now.
        """
        older = [index for index in newly if index < laid_out]
        missing = self._counter.missing(job.system, job.turns, older)
        if next(islice(missing, _COUNT_AT_ONCE, None), None) is not None:
            return None
        shares = before.tokens | self._counter.count(job.system, job.turns, older)
        return sum(shares.get(owner, 0) for index in newly for owner in job.turns[index].owners)

    def _fit(self, job: Candidates, start: int, layout: Layout, reserve: int) -> tuple[int, Layout]:
        """Find the first turn that stays.

        Returns:
            Its index, and the prompt from there on.

        Raises:
            ContextOverflowError: It does not fit.
        """
        if layout.total + reserve <= self.context_window:
            return start, layout
        if self.overflow == "stop":
            raise self._overflow(layout.total + reserve, job, layout, reserve, everything=True)
        return self._trim(job, start, layout, reserve)

    def _trim(self, job: Candidates, start: int, layout: Layout, reserve: int) -> tuple[int, Layout]:
        """Likewise, for a prompt that has to get shorter."""
        begins = (turn.messages[0].id if turn.messages else None for turn in job.turns)
        prepared = next((i for i, begin in enumerate(begins) if begin is not None and begin == self._prepared), start)
        if prepared > start and (tried := job.lay_out(prepared)).total + reserve <= self.context_window:
            return prepared, tried
        for limit in (int(self.low_water * self.context_window), self.context_window):
            # The shares say where it should fit; the prompt itself says whether it does.
            left = layout.total
            for begin in range(start + 1, len(job.turns)):
                dropped = job.turns[begin - 1]
                if not dropped.pinned:
                    left -= sum(layout.tokens.get(owner, 0) for owner in dropped.owners)
                if left + reserve <= limit and (tried := job.lay_out(begin)).total + reserve <= limit:
                    return begin, tried
        newest = max(start, len(job.turns) - 1)
        least = job.lay_out(newest)
        if least.total + reserve <= self.context_window:  # shares of a system prompt that moves with the first turn
            return newest, least
        raise self._overflow(least.total + reserve, job, least, reserve, everything=False)

    def _overflow(
        self, needed: int, job: Candidates, layout: Layout, reserve: int, *, everything: bool
    ) -> ContextOverflowError:
        newest = sum(layout.tokens.get(owner, 0) for owner in job.turns[-1].owners) if job.turns else 0
        pinned = sum(layout.tokens.get(owner, 0) for turn in job.turns[:-1] if turn.pinned for owner in turn.owners)
        figures = [f"{newest:,} tokens of the message"]
        if everything and (earlier := layout.total - newest):
            figures.append(f"{earlier:,} before it")
        elif not everything:
            if pinned:
                figures.append(f"{pinned:,} pinned")
            if rest := layout.total - newest - pinned:
                figures.append(f"{rest:,} of the system prompt and the template")
        figures.append(f"{reserve:,} reserved for the reply")
        about = "" if self.template.exact else "About "
        if everything:
            hint = "Start a new conversation, or let the oldest turns go (overflow 'rolling')."
        else:
            unpin = "unpin messages, " if pinned else ""
            hint = f"Shorten it, {unpin}or reserve less for the reply (max_new_tokens)."
        return ContextOverflowError(
            f"{about}{needed:,} tokens do not fit into the context window of {self.context_window:,}: "
            f"{', '.join(figures)}.",
            needed_tokens=needed,
            context_window=self.context_window,
            hint=hint,
        )

    def _report(
        self,
        job: Candidates,
        layout: Layout,
        begin: int,
        reserve: int,
        newly: Sequence[int],
        newly_tokens: int | None,
    ) -> WindowReport:
        dropped = [turn for turn in job.turns[:begin] if not turn.pinned]
        return WindowReport(
            context_window=self.context_window,
            exact=self.template.exact,
            prompt_tokens=layout.total,
            reserve_tokens=reserve,
            segments=(
                *job.segments(begin, layout),
                Segment("reserve", reserve, label="reply"),
                Segment("free", self.context_window - layout.total - reserve, label="free"),
            ),
            dropped_message_ids=tuple(owner for turn in dropped for owner in turn.owners),
            newly_dropped_message_ids=tuple(owner for index in newly for owner in job.turns[index].owners),
            newly_dropped_tokens=newly_tokens,
            newly_dropped_turns=len(newly),
            message_tokens={
                owner: layout.tokens.get(owner, 0)
                for turn in job.kept(begin)
                for owner in turn.owners
                if owner != DRAFT
            },
        )


def _reaching(turns: Sequence[Turn], characters: int, start: int) -> int:
    """The newest turns that have so many characters together, from a turn on: the first of them."""
    for index in range(len(turns) - 1, start, -1):
        characters -= sum(len(part.text) + _FRAME_CHARACTERS for _, part in turns[index].parts())
        if characters <= 0:
            return index
    return start


def _marked_start(path: Sequence[Message], turns: Sequence[Turn], context_window: int) -> int:
    """The first turn that the last send on this path had kept."""
    mark = next((message.mark for message in reversed(path) if message.mark is not None), None)
    if mark is None or mark.context_window != context_window:
        return 0
    return next((i for i, turn in enumerate(turns) if turn.messages and turn.messages[0].id == mark.start_id), 0)
