"""A path of a conversation, cut into turns, and the prompts that it could become.

A turn is a user message with all that answers it. Turns are kept or dropped as a whole: a model that sees half of one
is confused, and many templates demand that user and assistant alternate. So a pinned message keeps its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmmagic.core.chat.layout import DRAFT, SYSTEM, TEMPLATE, Entry, Layout, Part, Surveyor
from llmmagic.core.chat.messages import Message
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.errors import ChatTemplateError
from llmmagic.core.events import Segment, SegmentKind


@dataclass(frozen=True, slots=True)
class Turn:
    """A user message with all that answers it.

    Attributes:
        number: Counted from 1 along the path.
        messages: At least one; none for the draft.
        owners: Whose tokens it takes: ids of its messages, or `DRAFT`.
        pinned: Whether one of its messages is.
        draft: Text that is not sent yet.
    """

    number: int
    messages: tuple[Message, ...]
    owners: tuple[str, ...]
    pinned: bool
    draft: str | None = None

    def parts(self) -> list[tuple[str, Part]]:
        """Roles and texts. An empty reply was stopped before its first token: the model must not learn silence."""
        if self.draft is not None:
            return [("user", Part(DRAFT, self.draft))]
        return [(m.role, Part(m.id, m.content)) for m in self.messages if m.content or m.role != "assistant"]


def turns_of(path: Sequence[Message], draft: str | None) -> list[Turn]:
    """Cut a path into turns.

    Args:
        path: Oldest message first. What comes before the first user message is a turn, too.
        draft: What may be sent next; it is a turn of its own. ``None`` is nothing.

    Returns:
        The turns, in order.
    """
    groups: list[list[Message]] = []
    for message in path:
        if message.role == "user" or not groups:
            groups.append([])
        groups[-1].append(message)
    turns = [
        Turn(number, tuple(group), tuple(m.id for m in group), any(m.pinned for m in group))
        for number, group in enumerate(groups, 1)
    ]
    if draft is not None:
        turns.append(Turn(len(turns) + 1, (), (DRAFT,), pinned=False, draft=draft))
    return turns


class Candidates:
    """The prompts that a path with its draft could become, depending on the turn they begin with."""

    def __init__(
        self,
        template: ChatTemplate,
        surveyor: Surveyor,
        system: str | None,
        turns: Sequence[Turn],
        *,
        suffix: Part | None,
        generation_prompt: bool,
    ) -> None:
        """Remember what there is.

        Args:
            template: Of the model.
            surveyor: Of that template; it remembers what it laid out.
            system: System prompt of the conversation.
            turns: All of the path, and the draft.
            suffix: The beginning of a reply that is continued; its message is the last of the turns.
            generation_prompt: Whether a reply is to come.
        """
        self.turns = turns
        self.system = system
        self._template = template
        self._surveyor = surveyor
        self._suffix = suffix
        self._generation_prompt = generation_prompt

    def kept(self, begin: int) -> list[Turn]:
        """Turns that stay when all before ``begin`` go: those from there on, and the pinned ones."""
        return [turn for i, turn in enumerate(self.turns) if i >= begin or turn.pinned]

    def entries(self, begin: int) -> list[Entry]:
        """What the template is given."""
        entries: list[Entry] = []
        if self.system or (self.system == "" and self._template.silences_default):
            entries.append(Entry("system", (Part(SYSTEM, self.system),)))
        for turn in self.kept(begin):
            for role, part in turn.parts():
                if self._suffix is not None and part.owner == self._suffix.owner:
                    continue  # it comes after the prompt
                last = entries[-1] if entries else None
                shares = last is not None and (
                    (last.role == role and self._template.alternates)
                    or (last.role == "system" and self._template.merges_system and role == "user")
                )
                if last is not None and shares:
                    entries[-1] = Entry(role, (*last.parts, part))
                else:
                    entries.append(Entry(role, (part,)))
        return entries

    def lay_out(self, begin: int) -> Layout:
        """The prompt when all turns before ``begin`` go."""
        entries = self.entries(begin)
        suffix = None if self._suffix is None else _continuation(self._template, entries, self._suffix)
        return self._surveyor.lay_out(entries, generation_prompt=self._generation_prompt, suffix=suffix)

    def segments(self, begin: int, layout: Layout) -> list[Segment]:
        """Template, system prompt and turns."""
        segments = []
        kept = self.kept(begin)
        frame = layout.tokens.get(TEMPLATE, 0)
        if kept and kept[-1].draft == "":  # nobody has written anything: what stands around a message is the template's
            frame += layout.tokens.get(DRAFT, 0)
            kept = kept[:-1]
        if frame:
            segments.append(Segment("template", frame, label="template"))
        if system := layout.tokens.get(SYSTEM, 0):
            label = "system prompt" if self.system else "the template's own system prompt"
            segments.append(Segment("system", system, label=label))
        for turn in kept:
            tokens = sum(layout.tokens.get(owner, 0) for owner in turn.owners)
            if turn.draft is not None:
                segments.append(Segment("draft", tokens, label="draft"))
            else:
                kind: SegmentKind = "pinned" if turn.pinned else "turn"
                segments.append(Segment(kind, tokens, turn.owners, f"turn {turn.number}"))
        return segments


def _continuation(template: ChatTemplate, entries: Sequence[Entry], reply: Part) -> Part:
    """A reply as it follows the generation prompt: some templates put a space before it.

    Only spaces are taken from there. A template that would put an empty thinking part before the reply of another
    time is not followed: the model is to go on from what it said after the generation prompt.
    """
    messages = [entry.message() for entry in entries]
    before = template.render(messages)
    try:
        whole = template.render([*messages, {"role": "assistant", "content": reply.text}], add_generation_prompt=False)
    except ChatTemplateError:
        return reply
    after = whole.removeprefix(before)
    words = after.lstrip()
    if whole.startswith(before) and words.startswith(reply.text.strip()):
        return Part(reply.owner, after[: len(after) - len(words)] + reply.text.lstrip())
    return reply
