"""The part of a session that talks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llmmagic.core.config import EngineName, GenerationConfig, replace_known
from llmmagic.core.errors import ConfigError
from llmmagic.core.events import ChatEvent, ChatFinished, LoadEvent, Notice, WindowReport
from llmmagic.core.operation import CancelToken, Operation
from llmmagic.core.session.base import Emit
from llmmagic.core.session.conversations import DEFAULT_CONVERSATION
from llmmagic.core.session.converting import ConvertingOperations
from llmmagic.core.session.turns import Turn, generate_reply, next_prompt, reserve_for

if TYPE_CHECKING:
    from llmmagic.core.chat.records import Summary
    from llmmagic.core.chat.tree import Conversation


class ChatOperations(ConvertingOperations):
    """Conversations and their replies."""

    def chat(
        self,
        prompt: str,
        *,
        conversation: str = DEFAULT_CONVERSATION,
        system: str | None = None,
        new: bool = False,
        engine: EngineName = "auto",
        generation: GenerationConfig | None = None,
        **settings: Any,
    ) -> Operation[ChatEvent]:
        """Say something in a conversation and get a reply.

        Args:
            prompt: What to say.
            conversation: Name of the conversation; made if there is none.
            system: A system prompt from now on; ``None`` leaves it as it is, ``""`` is explicitly none.
            new: Start the conversation anew; the old one of that name is no longer reachable by it.
            engine: Who answers: ``auto`` is the one that the model was loaded with. ``llama.cpp`` converts what is
                loaded, its adapter merged in, once: many times faster on a CPU. See `prepare_engine`.
            generation: How to sample.
            **settings: Fields of `GenerationConfig`, when no ``generation`` is given.

        Returns:
            Events; the last is `ChatFinished`.

        Raises:
            ConfigError: An unknown setting, a value that is not allowed, an empty prompt or name.
            ModelNotLoadedError: No model is loaded.
            SessionBusyError: Something else is running.
            ContextOverflowError: While the events are read: it does not fit. The conversation is as it was.
            EngineError: Likewise: generation failed; what came of the reply is kept.
        """
        if not prompt.strip():
            raise ConfigError("The prompt is empty.", hint="Write what you want to say.")
        if not conversation.strip():
            raise ConfigError("A conversation needs a name.")
        turn = Turn("ask", conversation, prompt=prompt, system=system, new=new)
        return self._reply(turn, generation, settings, engine)

    def edit(
        self,
        message_id: str,
        prompt: str,
        *,
        conversation: str = DEFAULT_CONVERSATION,
        generation: GenerationConfig | None = None,
        **settings: Any,
    ) -> Operation[ChatEvent]:
        """Say something else instead of an earlier message: a branch beside it, with a reply. Nothing is lost.

        Args:
            message_id: A message of the user.
            prompt: What to say instead.
            conversation: Name of the conversation.
            generation: How to sample.
            **settings: Fields of `GenerationConfig`, when no ``generation`` is given.

        Returns:
            Events; the last is `ChatFinished`.

        Raises:
            ConversationNotFoundError: No such conversation or message.
            LLMMagicError: As `chat`.
        """
        if not prompt.strip():
            raise ConfigError("The prompt is empty.", hint="Write what you want to say.")
        self.conversation(conversation)[message_id]
        return self._reply(Turn("edit", conversation, prompt=prompt, message_id=message_id), generation, settings)

    def regenerate(
        self,
        message_id: str | None = None,
        *,
        conversation: str = DEFAULT_CONVERSATION,
        generation: GenerationConfig | None = None,
        **settings: Any,
    ) -> Operation[ChatEvent]:
        """Get another reply beside one: a branch. Nothing is lost.

        Args:
            message_id: The reply, or the message it answers; the last one of the conversation if not given.
            conversation: Name of the conversation.
            generation: How to sample.
            **settings: Fields of `GenerationConfig`, when no ``generation`` is given.

        Returns:
            Events; the last is `ChatFinished`.

        Raises:
            ConversationNotFoundError: No such conversation or message.
            LLMMagicError: As `chat`.
        """
        return self._reply(self._turn_at("regenerate", conversation, message_id), generation, settings)

    def continue_reply(
        self,
        message_id: str | None = None,
        *,
        conversation: str = DEFAULT_CONVERSATION,
        generation: GenerationConfig | None = None,
        **settings: Any,
    ) -> Operation[ChatEvent]:
        """Go on with a reply that was stopped or cut off.

        Args:
            message_id: The reply; the last message of the conversation if not given.
            conversation: Name of the conversation.
            generation: How to sample.
            **settings: Fields of `GenerationConfig`, when no ``generation`` is given.

        Returns:
            Events; the last is `ChatFinished`.

        Raises:
            ConversationNotFoundError: No such conversation or message.
            LLMMagicError: As `chat`.
        """
        return self._reply(self._turn_at("continue", conversation, message_id), generation, settings)

    def ask(self, prompt: str, **settings: Any) -> str:
        """`chat`, for people who want a string.

        Args:
            prompt: What to say.
            **settings: As for `chat`.

        Returns:
            The whole reply.

        Raises:
            LLMMagicError: As `chat`.
        """
        finished = self.chat(prompt, **settings).wait()
        assert isinstance(finished, ChatFinished)  # the last event of a chat
        return finished.text

    def _turn_at(self, kind: Literal["regenerate", "continue"], conversation: str, message_id: str | None) -> Turn:
        talk = self.conversation(conversation)
        chosen = message_id or talk.leaf
        if chosen is None:
            raise ConfigError(f"Conversation {conversation!r} has no messages yet.", hint="Say something first.")
        return Turn(kind, conversation, message_id=talk[chosen].id)

    def _reply(
        self,
        turn: Turn,
        generation: GenerationConfig | None,
        settings: Mapping[str, Any],
        engine: EngineName = "auto",
    ) -> Operation[ChatEvent]:
        if generation is not None and settings:
            raise ConfigError("Settings come without a generation config, or inside it, not beside it.")
        chosen: GenerationConfig = generation or replace_known(GenerationConfig, settings)
        self._check_engine(engine)

        def work(emit: Emit[ChatEvent], cancel: CancelToken) -> ChatEvent:
            def tell(event: LoadEvent) -> None:
                if isinstance(event, Notice):
                    emit(event)

            opened = self._engine(engine, tell, cancel)
            finished = generate_reply(self._conversations, opened, turn, chosen, emit, cancel)
            self._ahead.plan(opened.engine, next_prompt(self._conversations, opened, turn, chosen))
            return finished

        return self._start("chat", work)

    # --- conversations --------------------------------------------------------------------------------------------

    @property
    def conversations(self) -> Mapping[str, Conversation]:
        """The conversations of this session, by name."""
        return self._conversations.by_name

    def conversation(self, name: str = DEFAULT_CONVERSATION) -> Conversation:
        """A conversation of this session, or of the store.

        Raises:
            ConversationNotFoundError: There is none of that name.
        """
        return self._conversations.find(name)

    def new_conversation(self, name: str | None = None, *, system: str | None = None) -> Conversation:
        """Start a conversation.

        Args:
            name: What to call it; a conversation of that name is no longer reachable by it. Its id if not given.
            system: System prompt; ``None`` leaves it to the model's template, ``""`` is explicitly none.

        Returns:
            The conversation.
        """
        return self._conversations.start(name, system=system)

    def past_conversations(self, *, limit: int = 50) -> Sequence[Summary]:
        """Conversations of the store, last changed first; `conversation` opens one by its id.

        Args:
            limit: At most so many.

        Returns:
            Their summaries; none without a store.

        Raises:
            StoreError: The database failed.
        """
        return self._conversations.past(limit)

    def name_of(self, conversation_id: str) -> str:
        """The name by which this session reaches a conversation: its id, unless it was given another one."""
        return self._conversations.name_of(conversation_id) or conversation_id

    def window(
        self,
        conversation: str = DEFAULT_CONVERSATION,
        *,
        draft: str | None = None,
        generation: GenerationConfig | None = None,
    ) -> WindowReport:
        """What the model sees of a conversation, and what sending a draft would change. May be called at any time.

        Args:
            conversation: Its name; an unknown one is an empty conversation.
            draft: What the user is typing.
            generation: Its ``max_new_tokens`` is the reply reserve.

        Returns:
            Exact figures.

        Raises:
            ModelNotLoadedError: No model is loaded: nobody can count.
            ContextOverflowError: The draft cannot be sent; with figures.
        """
        opened = self._require("Counting tokens")
        reserve = reserve_for(generation or GenerationConfig(), opened.info.context_window)
        return self._conversations.plan(conversation, opened, draft=draft, reserve_tokens=reserve).report

    def message_tokens(self, message_ids: Sequence[str], conversation: str = DEFAULT_CONVERSATION) -> dict[str, int]:
        """What messages take up, those too that have fallen out of the window. May be called at any time.

        Args:
            message_ids: Messages of the active path; some hundred at a time: a thousand take a good
                part of a second.
            conversation: Its name.

        Returns:
            Tokens of each as they are in a prompt that has them, the template's share included. What is not on the path
            is left out.

        Raises:
            ModelNotLoadedError: No model is loaded: nobody can count.
            ConversationNotFoundError: There is none of that name.
            ChatTemplateError: The model's template refuses the messages.
        """
        opened = self._require("Counting tokens")
        talk = self._conversations.find(conversation)
        return self._conversations.window(talk, opened).count(talk, message_ids)

    def token_counter(self) -> Callable[[str], int]:
        """What counts the tokens of a text by itself, for the model that is loaded now; it outlives the model.

        Raises:
            ModelNotLoadedError: No model is loaded: nobody can count.
        """
        return self._require("Counting tokens").template.count
