"""A model's chat template with its tokenizer: messages in, exactly the token ids that the model expects out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from llmmagic.core.chat.encoding import Encoder, FastEncoder, SlowEncoder
from llmmagic.core.chat.rendering import compile_template, render
from llmmagic.core.errors import ChatTemplateError
from llmmagic.core.events import Notice

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% else %}{{ message['role'] | capitalize + ': ' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For models that come without a template: base models, mostly. They go on writing a dialogue."""

PLAIN_STOP = ("\nUser:", "\nSystem:", "\nTool:")


class ChatTemplate:
    """Turns messages into the ids of a prompt, without torch and transformers.

    ``encode`` gives what ``tokenizer.apply_chat_template(messages, add_generation_prompt=True)`` gives.

    Attributes:
        special_tokens: ``bos_token``, ``eos_token`` and so on, as the template may use them.
        plain: Whether the model has no template and a plain dialogue is used.
        stop: Texts that end a reply, for models that do not end it themselves.
        trusted: Whether prompts are what the model gets. Not so where a server made more or less of them than was
            counted here: then its counts are estimates.
    """

    def __init__(self, encoder: Encoder, chat_template: str | None, special_tokens: Mapping[str, str]) -> None:
        """Put a template together; the class methods are more convenient.

        Args:
            encoder: The tokenizer.
            chat_template: Jinja text; ``None`` if the model has none.
            special_tokens: Names and texts: ``{"bos_token": "<s>"}``.

        Raises:
            ChatTemplateError: The template is no valid Jinja.
        """
        self.encoder = encoder
        self.special_tokens = dict(special_tokens)
        self.plain = chat_template is None
        self.stop = PLAIN_STOP if chat_template is None else ()
        self.trusted = True
        self._source = chat_template
        self._compiled = compile_template(PLAIN_TEMPLATE if chat_template is None else chat_template)
        self._variables = self.special_tokens if chat_template is not None else {"bos_token": self._first_token()}

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> ChatTemplate:
        """Of a loaded Transformers tokenizer.

        Args:
            tokenizer: A ``PreTrainedTokenizerBase``. One without a ``tokenizers`` backend works too, but messages'
                shares of the window are then estimates.

        Returns:
            The template; it shares the tokenizer's backend.

        Raises:
            ChatTemplateError: The template is no valid Jinja, or there are several and none is the default.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        encoder = SlowEncoder(tokenizer) if backend is None else FastEncoder(backend)
        return cls(
            encoder, _one_template(getattr(tokenizer, "chat_template", None)), _texts(tokenizer.special_tokens_map)
        )

    @classmethod
    def from_files(
        cls, tokenizer_json: Path | str | bytes, chat_template: str | None, special_tokens: Mapping[str, Any]
    ) -> ChatTemplate:
        """Of a tokenizer file.

        Args:
            tokenizer_json: Path of a ``tokenizer.json``, or its content as bytes.
            chat_template: Jinja text; ``None`` if the model has none.
            special_tokens: Names and texts, or the ``AddedToken`` objects of ``tokenizer_config.json``.

        Returns:
            The template.

        Raises:
            ChatTemplateError: The file cannot be read, or the template is no valid Jinja.
        """
        from tokenizers import Tokenizer

        try:
            content = tokenizer_json if isinstance(tokenizer_json, bytes) else Path(tokenizer_json).read_bytes()
            backend = Tokenizer.from_buffer(content)
        except (OSError, ValueError) as err:
            name = "" if isinstance(tokenizer_json, bytes) else f" {tokenizer_json}"
            raise ChatTemplateError(f"The tokenizer file{name} cannot be read: {err}") from err
        return cls(FastEncoder(backend), chat_template, _texts(special_tokens))

    def to_payload(self) -> dict[str, Any]:
        """Plain data that can cross a process border.

        Returns:
            What `from_payload` takes.

        Raises:
            ChatTemplateError: The tokenizer has no ``tokenizers`` backend and cannot be written down.
        """
        if not isinstance(self.encoder, FastEncoder):
            raise ChatTemplateError(
                "This model's tokenizer cannot be moved to another process.", hint="Use it in the process it is in."
            )
        return {
            "tokenizer_json": self.encoder.backend.to_str(),
            "chat_template": self._source,
            "special_tokens": self.special_tokens,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> ChatTemplate:
        """The template that `to_payload` was called on, in another process."""
        content = str(payload["tokenizer_json"]).encode()
        return cls.from_files(content, payload["chat_template"], payload["special_tokens"])

    @property
    def exact(self) -> bool:
        """Whether what is counted is what the model gets, token for token."""
        return self.trusted and self.encoder.exact

    # --- messages to ids ------------------------------------------------------------------------------------------

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """Text of a prompt.

        Args:
            messages: With ``role`` and ``content``, oldest first.
            add_generation_prompt: Whether to end with the beginning of a reply.

        Returns:
            The text, special tokens included.

        Raises:
            ChatTemplateError: The template refuses the messages; says why in its own words.
        """
        return render(self._compiled, self.as_given(messages), self._variables, generation_prompt=add_generation_prompt)

    def as_given(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Messages in the form that this template reads.

        Templates of models that also see pictures want a list of parts instead of a text; with a text they fail, or
        leave it out without a word.

        Args:
            messages: With ``role`` and ``content``.

        Returns:
            Copies; where the template needs it, texts are ``[{"type": "text", "text": ...}]``.
        """
        if not self.takes_parts:
            return [dict(message) for message in messages]
        return [{**message, "content": _parts(message["content"])} for message in messages]

    def encode(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> list[int]:
        """Ids of a prompt (T,), exactly those of ``apply_chat_template(tokenize=True)``.

        Args:
            messages: With ``role`` and ``content``, oldest first.
            add_generation_prompt: Whether to end with the beginning of a reply.

        Returns:
            Token ids; nothing may be added to them.

        Raises:
            ChatTemplateError: The template refuses the messages.
        """
        return self.encoder.encode(self.render(messages, add_generation_prompt=add_generation_prompt))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids (T,)."""
        return self.encoder.decode(ids, skip_special_tokens=skip_special_tokens)

    def count(self, text: str) -> int:
        """Tokens of a text by itself."""
        return len(self.encoder.encode(text))

    # --- what the template does with messages ---------------------------------------------------------------------

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the template reads contents as lists of parts and cannot read a text."""

        def shows(content: Any) -> bool:
            probe = [{"role": "user", "content": content}]
            try:
                return "\ue000" in render(self._compiled, probe, self._variables, generation_prompt=True)
            except ChatTemplateError:
                return False

        return not shows("\ue000") and shows(_parts("\ue000"))

    @cached_property
    def merges_system(self) -> bool:
        """Whether a system prompt goes into the first user message, as the template has no place for one."""
        probe = [_message("system", "\ue000"), _message("user", "\ue001")]
        try:
            return "\ue000" not in self.render(probe)
        except ChatTemplateError:
            return True

    @cached_property
    def alternates(self) -> bool:
        """Whether the template demands that user and assistant take turns."""
        try:
            self.render([_message("user", "\ue000"), _message("user", "\ue001")])
        except ChatTemplateError:
            return True
        return False

    @cached_property
    def silences_default(self) -> bool:
        """Whether the template adds a system prompt by itself, and an empty one keeps it from doing so."""
        if self.merges_system:
            return False
        user = _message("user", "\ue001")
        try:
            return len(self.render([_message("system", ""), user])) < len(self.render([user]))
        except ChatTemplateError:
            return False

    @cached_property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply: the tokenizer's end of sequence, and what the template puts after a reply."""
        ids = self.encoder.encode(self.special_tokens.get("eos_token", ""))[:1]
        try:
            text = self.render(
                [_message("user", "\ue000"), _message("assistant", "\ue001")], add_generation_prompt=False
            )
        except ChatTemplateError:
            return tuple(ids)
        after = text.rpartition("\ue001")[2]
        if self.encoder.special is not None and (match := self.encoder.special.match(after.lstrip())):
            ids += self.encoder.encode(match.group())
        return tuple(dict.fromkeys(ids))

    @property
    def notices(self) -> tuple[Notice, ...]:
        """What a user should know about this template."""
        found = []
        if self.plain:
            found.append(
                Notice(
                    "This model has no chat template: a plain 'User: ... Assistant: ...' dialogue is used.",
                    level="warning",
                    topic="chat-template",
                )
            )
        if self.merges_system:
            found.append(
                Notice(
                    "This model's chat template has no system prompt: yours is put before the first user message.",
                    topic="system-prompt",
                )
            )
        return tuple(found)

    def _first_token(self) -> str:
        """The token that the tokenizer itself would put first; a plain dialogue has to begin with it."""
        bos = self.special_tokens.get("bos_token", "")
        if not bos or not isinstance(self.encoder, FastEncoder):
            return bos
        begins = self.encoder.backend.encode("a").tokens[:1] == [bos]
        return bos if begins else ""


def _parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _texts(special_tokens: Mapping[str, Any]) -> dict[str, str]:
    """Names and texts of special tokens, however they were written down."""
    texts = {}
    for name, token in special_tokens.items():
        text = token.get("content") if isinstance(token, Mapping) else token
        if text is not None and re.fullmatch(r"[a-z_]+_token", name):
            texts[name] = str(text)
    return texts


def _one_template(given: Any) -> str | None:
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping) and isinstance(given.get("default"), str):
        return str(given["default"])
    raise ChatTemplateError("The model has several chat templates and none of them is the default.")
