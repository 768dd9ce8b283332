"""The engine: messages to the server, and what it answers as events."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from typing_extensions import override

from llmmagic.core.chat.estimate import EstimatingEncoder
from llmmagic.core.chat.messages import writable
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines.base import Capabilities, MessageEngine
from llmmagic.core.engines.detokenize import StopStrings
from llmmagic.core.engines.openai.client import ServerClient
from llmmagic.core.engines.openai.facts import ServerFacts
from llmmagic.core.engines.openai.requests import (
    Usage,
    chat_request,
    completion_request,
    finish_reason,
    left_out,
    progress_in,
    said_in,
    usage_in,
)
from llmmagic.core.engines.openai.retry import patiently
from llmmagic.core.engines.reply import Reply
from llmmagic.core.errors import ContextOverflowError, EngineError
from llmmagic.core.events import EngineEvent, FinishReason, GenerationFinished, Notice
from llmmagic.core.operation import CancelledOperation, CancelToken

_CHAT, _COMPLETIONS = "/chat/completions", "/completions"
_SLACK = 8  # an estimated prompt may be longer by this part of it


@dataclass
class _Exchange:
    """A request and what has come of it."""

    path: str
    body: dict[str, Any]
    reply: Reply
    whole_window: bool
    usage: Usage | None = None
    thinking: bool = False


class OpenAIEngine(MessageEngine):
    """Lets a server generate."""

    def __init__(self, client: ServerClient, facts: ServerFacts, template: ChatTemplate, context_window: int) -> None:
        """Put the parts together.

        Args:
            client: Of the server; closed with the engine.
            facts: About the server and its model.
            template: Counts prompts; learns from what the server says it has counted.
            context_window: Tokens that prompt and reply may have together.
        """
        self._client = client
        self._facts = facts
        self._template = template
        self._context_window = context_window

    @property
    @override
    def name(self) -> str:
        return "openai"

    @property
    @override
    def context_window(self) -> int:
        return self._context_window

    @property
    @override
    def capabilities(self) -> Capabilities:
        return Capabilities()

    @override
    def memory_bytes(self, device: str) -> int:
        return 0  # it is another machine's

    @override
    def reset(self) -> None:
        """The server's weights are not ours to change: nothing to forget."""

    @override
    def close(self) -> None:
        self._client.close()

    @override
    def reply(
        self, messages: Sequence[Mapping[str, Any]], prompt_tokens: int, config: GenerationConfig, cancel: CancelToken
    ) -> Iterator[EngineEvent]:
        if missing := left_out(self._facts, config):
            text = f"The server {self._client.address.host} does not know {', '.join(missing)}: left out."
            yield Notice(text, level="warning", topic="sampling")
        limit = self._room(prompt_tokens, config)
        body = chat_request(self._facts, messages, config, limit)
        exchange = _Exchange(_CHAT, body, Reply(prompt_tokens=prompt_tokens), limit < config.max_new_tokens)
        try:
            reason = yield from self._run(exchange, config, cancel)
        except ContextOverflowError as err:
            self._learn_prompt(prompt_tokens, err.needed_tokens)
            raise
        if exchange.usage is not None:
            yield from self._learn(messages, exchange.reply, exchange.usage)
        yield self._finished(exchange, reason)

    @override
    def generate(
        self, prompt_ids: Sequence[int], config: GenerationConfig, cancel: CancelToken
    ) -> Iterator[EngineEvent]:
        """Go on from token ids; see `Engine.generate`. This is how a reply that was cut off is continued.

        Raises:
            EngineError: The server takes messages alone, or its tokens are not known here.
        """
        if not (self._facts.takes_ids and self._template.exact):
            raise EngineError(
                f"This server ({self._client.address.host}) takes whole messages only: it cannot go on with a reply.",
                hint="Regenerate it instead.",
            )
        limit = self._room(len(prompt_ids), config)
        body = completion_request(self._facts, prompt_ids, config, limit)
        exchange = _Exchange(_COMPLETIONS, body, Reply(prompt_tokens=len(prompt_ids)), limit < config.max_new_tokens)
        reason = yield from self._run(exchange, config, cancel)
        yield self._finished(exchange, reason)

    def _room(self, prompt_tokens: int, config: GenerationConfig) -> int:
        """Most tokens of the reply.

        Raises:
            ContextOverflowError: There is no room for one.
        """
        if prompt_tokens >= self._context_window:
            raise ContextOverflowError(
                f"The prompt has {prompt_tokens:,} tokens and the context window holds {self._context_window:,}.",
                needed_tokens=prompt_tokens + 1,
                context_window=self._context_window,
                hint="Shorten it, or start a new conversation.",
            )
        slack = 0 if self._template.exact else prompt_tokens // _SLACK
        return max(min(config.max_new_tokens, self._context_window - prompt_tokens - slack), 1)

    def _run(
        self, exchange: _Exchange, config: GenerationConfig, cancel: CancelToken
    ) -> Generator[EngineEvent, None, FinishReason]:
        """Send a request, and again where that may help; read what comes.

        Returns:
            Why it ended.

        Raises:
            EngineError: The server refused, or broke off.
            ContextOverflowError: It says that the prompt is too long.
        """
        begin = partial(
            self._client.stream,
            exchange.path,
            exchange.body,
            cancel,
            counted=exchange.reply.prompt_tokens,
            context_window=self._context_window,
        )
        stops = StopStrings(config.stop)
        reason: FinishReason | None = None
        try:
            stream, chunk = yield from patiently(begin, cancel)
            with closing(stream):
                while chunk is not None and not stops.found:
                    said = yield from self._take(exchange, chunk, stops)
                    reason = said or reason
                    chunk = None if stops.found else stream.read()
        except CancelledOperation:
            reason = "cancelled"
        except httpx.HTTPError as err:
            raise self._client.speech.broken_off(silent=isinstance(err, httpx.TimeoutException)) from err
        if stops.found:
            return "stop"
        if reason is None:
            raise self._client.speech.broken_off()
        if held := stops.flush():
            yield exchange.reply.add(None, held)
        return reason

    def _take(
        self, exchange: _Exchange, chunk: Mapping[str, Any], stops: StopStrings
    ) -> Generator[EngineEvent, None, FinishReason | None]:
        """Take in a chunk; returns why the reply ended, if it did."""
        exchange.usage = usage_in(chunk) or exchange.usage
        if (progress := progress_in(chunk)) is not None:
            yield progress
        said = said_in(chunk, thinking=exchange.thinking)
        exchange.thinking = said.thinking
        if said.text and (text := stops.feed(writable(said.text))):
            yield exchange.reply.add(None, text)
        if said.finish == "content_filter":
            host = self._client.address.host
            yield Notice(f"The server {host} cut the reply: its filter objects.", level="warning", topic="filter")
        return None if said.finish is None else finish_reason(said.finish, whole_window=exchange.whole_window)

    def _finished(self, exchange: _Exchange, reason: FinishReason) -> GenerationFinished:
        reply, usage = exchange.reply, exchange.usage
        if usage is None:
            return reply.finished(
                reason, completion_tokens=self._template.count(reply.text), exact=self._template.exact
            )
        reply.prompt_tokens, reply.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        return reply.finished(reason, completion_tokens=usage.completion_tokens)

    # --- learning from what the server has counted -------------------------------------------------------------------

    def _learn(self, messages: Sequence[Mapping[str, Any]], reply: Reply, usage: Usage) -> Iterator[Notice]:
        """Correct the counts; says so where that means that exact ones are not."""
        template = self._template
        if isinstance(template.encoder, EstimatingEncoder):
            if visible := usage.completion_tokens - usage.hidden_tokens:
                template.encoder.learn_scale(reply.text, visible)
            self._learn_prompt(len(template.encode(messages)), usage.prompt_tokens)
        elif template.exact and usage.prompt_tokens != reply.prompt_tokens:
            template.trusted = False
            text = (
                f"The server counted {usage.prompt_tokens:,} tokens of prompt, this side {reply.prompt_tokens:,}: its "
                "template is another one. Token counts are estimates from now on."
            )
            yield Notice(text, level="warning", topic="token-counts")

    def _learn_prompt(self, estimated: int, tokens: int) -> None:
        encoder = self._template.encoder
        # Less than half is no count of the whole prompt: some servers leave out what they had read before.
        if isinstance(encoder, EstimatingEncoder) and 2 * tokens >= estimated:
            encoder.learn_added(estimated, tokens)
