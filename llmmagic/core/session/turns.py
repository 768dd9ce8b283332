"""One reply: plan the prompt, generate, and write down what comes while it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines.base import Engine, MessageEngine
from llmmagic.core.errors import ChatTemplateError, ContextOverflowError, LLMMagicError
from llmmagic.core.events import ChatEvent, ChatFinished, ChatStarted, EngineEvent, GenerationFinished, TextDelta
from llmmagic.core.operation import CancelToken
from llmmagic.core.session.conversations import Conversations

if TYPE_CHECKING:
    from llmmagic.core.chat.tree import Conversation
    from llmmagic.core.chat.window import WindowPlan
    from llmmagic.core.engines.opened import OpenedEngine

FLUSH_S = 1.0
"""A reply that streams is written down at least this often."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a reply is wanted for.

    Attributes:
        kind: ask: a new message. edit: a message beside another one. regenerate: another reply. continue: more of one.
        conversation: Name of the conversation.
        message_id: The message it is about; for ``ask`` none.
        prompt: What the user says; for ``ask`` and ``edit``.
        system: A new system prompt; ``None`` leaves it.
        new: Whether the conversation starts anew.
    """

    kind: Literal["ask", "edit", "regenerate", "continue"]
    conversation: str
    message_id: str | None = None
    prompt: str = ""
    system: str | None = None
    new: bool = False


def reserve_for(generation: GenerationConfig, context_window: int) -> int:
    """Tokens that are kept free for a reply: what it may have, but never more than half of the window."""
    return min(generation.max_new_tokens, context_window // 2)


def generate_reply(
    conversations: Conversations,
    opened: OpenedEngine,
    turn: Turn,
    generation: GenerationConfig,
    emit: Callable[[ChatEvent], None],
    cancel: CancelToken,
) -> ChatFinished:
    """Run one turn.

    Args:
        conversations: Of the session.
        opened: The engine and its template.
        turn: What is wanted.
        generation: How to sample.
        emit: Gets everything up to the last event.
        cancel: Ends the reply after the token it is at; what there is of it is kept.

    Returns:
        The last event.

    Raises:
        ContextOverflowError: The prompt does not fit; the conversation is as it was.
        ChatTemplateError: The template refuses the messages; the conversation is as it was.
        EngineError: Generation failed; what there is of the reply is kept, marked as cancelled.
    """
    started = _begin(conversations, opened, turn, reserve_for(generation, opened.info.context_window))
    template = opened.template
    settings = replace(
        generation,
        stop=(*generation.stop, *template.stop),
        stop_token_ids=(*generation.stop_token_ids, *template.eos_token_ids),
    )
    emit(ChatStarted(turn.conversation, started.user_id, started.reply_id, started.plan.report))
    writer = _Writer(started)
    try:
        for event in _generate(opened.engine, turn, started.plan, settings, cancel):
            if isinstance(event, GenerationFinished):
                finished = event
                continue
            emit(event)
            if isinstance(event, TextDelta):
                writer.feed(event.text)
    except LLMMagicError:
        writer.flush()
        raise
    return _finish(conversations, opened, turn, started, finished)


def _generate(
    engine: Engine, turn: Turn, plan: WindowPlan, settings: GenerationConfig, cancel: CancelToken
) -> Iterator[EngineEvent]:
    """Tokens to the engine, or messages to one that has its template elsewhere; to continue a reply takes tokens."""
    if isinstance(engine, MessageEngine) and turn.kind != "continue":
        return engine.reply(plan.messages, plan.report.prompt_tokens, settings, cancel)
    return engine.generate(plan.prompt_ids, settings, cancel)


def next_prompt(
    conversations: Conversations, opened: OpenedEngine, turn: Turn, generation: GenerationConfig
) -> tuple[int, ...]:
    """What the prompt after a turn will begin with, where the engine cannot go on from the last one.

    Args:
        conversations: Of the session.
        opened: The engine and its template.
        turn: The one that has just been answered.
        generation: How the next reply will be sampled, as far as is known.

    Returns:
        Token ids (T,); none while the conversation still fits into the window, or where messages are sent, not tokens.
    """
    if isinstance(opened.engine, MessageEngine):
        return ()
    talk = conversations.find(turn.conversation)
    window = conversations.window(talk, opened)
    try:
        return tuple(window.prepare(talk, reserve_tokens=reserve_for(generation, opened.info.context_window)))
    except (ContextOverflowError, ChatTemplateError):  # whoever writes next is told
        return ()


@dataclass(frozen=True, slots=True)
class _Started:
    """A turn whose question and empty reply are written down."""

    talk: Conversation
    plan: WindowPlan
    user_id: str
    reply_id: str
    before: str  # what a continued reply had already
    reserve: int


class _Writer:
    """Writes a streaming reply down often enough."""

    def __init__(self, started: _Started) -> None:
        self._started = started
        self._parts = [started.before]
        self._last = time.monotonic()

    def feed(self, text: str) -> None:
        self._parts.append(text)
        if time.monotonic() - self._last >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        self._started.talk.update(self._started.reply_id, content="".join(self._parts))
        self._last = time.monotonic()


def _begin(conversations: Conversations, opened: OpenedEngine, turn: Turn, reserve: int) -> _Started:
    """Plan first: whatever does not fit is refused before anything is written."""
    before = ""
    if turn.kind == "ask":
        talk, plan, user_id = _ask(conversations, opened, turn, reserve)
    else:
        talk = conversations.find(turn.conversation)
        assert turn.message_id is not None  # the session looked it up
        window = conversations.window(talk, opened)
        message = talk[turn.message_id]
        if turn.kind == "edit":
            alone = talk if message.parent is not None else conversations.make(system=talk.system)
            window.plan(alone, draft=turn.prompt, leaf=message.parent, reserve_tokens=reserve)
            user_id = talk.edit(message.id, turn.prompt).id
            plan = window.plan(talk, reserve_tokens=reserve)
        elif turn.kind == "regenerate":
            user_id = message.id if message.role == "user" or message.parent is None else message.parent
            plan = window.plan(talk, leaf=user_id, reserve_tokens=reserve)
        else:
            plan = window.plan(talk, leaf=message.id, reserve_tokens=reserve, continue_reply=True)
            talk.select(message.id)
            before, user_id = message.content, message.parent or message.id
            return _Started(talk, plan, user_id, message.id, before, reserve)
    info = opened.info
    name = f"{info.model_id}+{info.adapter}" if info.adapter else info.model_id
    # Marked as cancelled until it is finished: should the program die, what is there says that it is a part.
    reply = talk.add("assistant", "", parent=user_id, finish_reason="cancelled", model_id=name)
    return _Started(talk, plan, user_id, reply.id, before, reserve)


def _ask(
    conversations: Conversations, opened: OpenedEngine, turn: Turn, reserve: int
) -> tuple[Conversation, WindowPlan, str]:
    if turn.new:
        talk, new = conversations.make(turn.conversation, system=turn.system), True
    else:
        talk, new = conversations.find_or_make(turn.conversation)
    window = conversations.window(talk, opened)
    system = talk.system
    if turn.system is not None and turn.system != system:
        talk.system = turn.system
    try:
        window.plan(talk, draft=turn.prompt, reserve_tokens=reserve)
    except LLMMagicError:
        if talk.system != system and not new:
            talk.system = system
        raise
    user = talk.add("user", turn.prompt)
    if new:
        conversations.put(turn.conversation, talk)
    return talk, window.plan(talk, reserve_tokens=reserve), user.id


def _tokens_of(text: str, opened: OpenedEngine, turn: Turn, finished: GenerationFinished) -> int | None:
    """Tokens of a reply: counted here, or else as the server has counted them. An estimate is not kept."""
    if opened.template.exact:
        return opened.template.count(text)
    return finished.stats.completion_tokens if finished.stats.exact and turn.kind != "continue" else None


def _finish(
    conversations: Conversations,
    opened: OpenedEngine,
    turn: Turn,
    started: _Started,
    finished: GenerationFinished,
) -> ChatFinished:
    text = started.before + finished.text
    started.talk.update(
        started.reply_id,
        content=text,
        finish_reason=finished.finish_reason,
        token_count=_tokens_of(text, opened, turn, finished),
    )
    try:
        window = conversations.window(started.talk, opened).plan(started.talk, reserve_tokens=started.reserve).report
    except LLMMagicError:  # the reply filled the window to the brim, or who counts is gone: the last report is known
        window = started.plan.report
    return ChatFinished(
        conversation=turn.conversation,
        message_id=started.reply_id,
        text=text,
        finish_reason=finished.finish_reason,
        stats=finished.stats,
        window=window,
    )
