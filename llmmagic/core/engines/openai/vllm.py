"""Exact counts of a vLLM server, by asking it: ``/tokenize`` makes a prompt of messages, ``/detokenize`` its text.

https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#tokenizer-api
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from llmmagic.core.chat.encoding import Encoder
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.engines.openai.client import ServerClient
from llmmagic.core.engines.openai.errors import TryAgain
from llmmagic.core.errors import ChatTemplateError, EngineError

_KEPT_PROMPTS = 16  # whose ids are known from making them


class VllmEncoder(Encoder):
    """Encodes by asking vLLM. Whole prompts only; borders between messages are estimated, sums are exact."""

    def __init__(self, client: ServerClient, model: str) -> None:
        """Remember whom to ask.

        Args:
            client: Of the server.
            model: Its name there.
        """
        self._client = client
        self._model = model
        self._made: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        super().__init__()

    def prompt(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """Text of the prompt that the server makes of messages.

        Raises:
            ChatTemplateError: Its template refuses them.
            LLMMagicError: It does not answer.
        """
        body = {"messages": [dict(message) for message in messages], "add_generation_prompt": add_generation_prompt}
        try:
            ids = self._tokens({**body, "add_special_tokens": False})
        except EngineError as err:
            raise ChatTemplateError(f"The server's chat template refuses these messages: {err.message}") from err
        told = self._ask("//detokenize", {"tokens": list(ids)})
        text = told.get("prompt") if isinstance(told, dict) else None
        if not isinstance(text, str):
            raise self._client.speech.nonsense("/detokenize gives no text")
        self._made[text] = ids
        if len(self._made) > _KEPT_PROMPTS:
            self._made.popitem(last=False)
        return text

    @override
    def _encode(self, text: str) -> tuple[int, ...]:
        made = self._made.get(text)
        if made is not None:
            return made
        return self.encode_anew(text) if text else ()

    @override
    def _locate(self, text: str) -> tuple[int, ...]:
        count = len(self._ids(text))
        return tuple(i * len(text) // count for i in range(count))

    @override
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        told = self._ask("//detokenize", {"tokens": list(ids)})
        return str(told.get("prompt", "")) if isinstance(told, dict) else ""

    def encode_anew(self, text: str) -> tuple[int, ...]:
        """Ids of a text (T,), whatever is known of it."""
        return self._tokens({"prompt": text, "add_special_tokens": False})

    def _tokens(self, body: Mapping[str, Any]) -> tuple[int, ...]:
        told = self._ask("//tokenize", body)
        tokens = told.get("tokens") if isinstance(told, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
            raise self._client.speech.nonsense("/tokenize is no list of tokens")
        return tuple(tokens)

    def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            return self._client.ask("POST", path, {"model": self._model, **body})
        except TryAgain as err:
            raise err.error from err


class VllmTemplate(ChatTemplate):
    """The template of a vLLM server, which only the server has."""

    def __init__(self, encoder: VllmEncoder) -> None:
        """Remember whom to ask.

        Args:
            encoder: Of the server.
        """
        super().__init__(encoder, "", {})
        self._server = encoder

    @override
    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        return self._server.prompt(messages, add_generation_prompt=add_generation_prompt)
