"""Rows become token ids and labels, exactly as the chat will send them.

We tokenise, not TRL: what is trained on must be token for token what the model sees later. Per row it is checked that
the ids of the prompt alone are the beginning of the ids of the whole; where a template or tokenizer does not hold to
that, a conversation is split into one example per answer, each of them prompt ids + answer ids.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llmmagic.core.chat.layout import JOINT
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.errors import ChatTemplateError, DataFormatError
from llmmagic.core.training.formats import Sample
from llmmagic.core.training.llama2 import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = -100
"""Label of a token that no loss is taken on (``ignore_index`` of torch's cross entropy)."""

LossOn = Literal["answers", "all"]
"""``answers``: what the assistant says, end token included. ``all``: every token, prompts too."""


@dataclass(frozen=True, slots=True)
class Example:
    """What one forward pass is trained on.

    Attributes:
        input_ids: (T,), BOS once, at most ``max_length``.
        labels: (T,): the id where the loss is taken, else `MASKED`. The model shifts them by one itself.
        row: Number of the row it is from.
        cut_tokens: How many tokens ``max_length`` cut off.
    """

    input_ids: list[int]
    labels: list[int]
    row: int
    cut_tokens: int = 0

    @property
    def trained_tokens(self) -> int:
        """Tokens that a loss is taken on; the first of a sequence is never predicted."""
        return sum(label != MASKED for label in self.labels[1:])


class ExampleMaker:
    """Turns samples into examples, for one model's tokenizer and template.

    Attributes:
        end_ids: Tokens that end a reply.
        bos_id: The token that a sequence begins with, if the tokenizer has one.
        identity: Makers of the same identity make the same examples of the same samples.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: ChatTemplate,
        *,
        end_ids: frozenset[int],
        max_length: int,
        loss_on: LossOn = "answers",
    ) -> None:
        """Set it up.

        Args:
            tokenizer: Of the model.
            template: The model's chat template, as the chat uses it.
            end_ids: Tokens that end a reply when the model chats.
            max_length: Most tokens of an example; more are cut off at the end.
            loss_on: What the loss is taken on.
        """
        self.end_ids = end_ids
        self.bos_id = tokenizer.bos_token_id
        self._tokenizer = tokenizer
        self._template = template
        self._max_length = max_length
        self._loss_on = loss_on
        # The tokenizer itself is part of it: what has the same id() later need not be the same.
        self.identity: Hashable = (tokenizer, tokenizer.chat_template, end_ids, max_length, loss_on)
        # What a reply is taught to end with where the template writes no end token.
        self._end_id = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(end_ids, default=None)

    def make(self, sample: Sample) -> list[Example]:
        """Tokenise one sample.

        Args:
            sample: From a row.

        Returns:
            One example; several where a conversation has to be split; none where ``max_length`` leaves nothing to
            learn.

        Raises:
            DataFormatError: The model's template refuses the messages.
        """
        if not sample.messages:
            made = [self._text(sample)]
        else:
            try:
                made = self._conversation(sample)
            except ChatTemplateError as err:
                raise DataFormatError(f"Row {sample.row}: {err.message}", hint=err.hint) from err
        return [example for example in map(self._truncated, made) if example.trained_tokens]

    def prompt_and_answer(self, messages: Sequence[Message], row: int) -> tuple[list[int], list[int]]:
        """The last answer apart from what it answers.

        Args:
            messages: End with an answer.
            row: Number of the row they are from.

        Returns:
            The prompt's ids as the chat sends them, and the answer's with an end token: (T,) each.

        Raises:
            DataFormatError: The model's template refuses the messages.
        """
        try:
            return self._prompt_and_answer(messages)
        except ChatTemplateError as err:
            raise DataFormatError(f"Row {row}: {err.message}", hint=err.hint) from err

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """What the chat sends for these messages (T,), by its own way from messages to ids."""
        return self._template.encode(self._merged(messages), add_generation_prompt=True)

    def has_special(self, sample: Sample) -> bool:
        """Whether a text contains what the tokenizer takes for a special token."""
        special = self._template.encoder.special
        if special is None:
            return False
        return any(special.search(text) for text in (self._bare(sample.text), *(m["content"] for m in sample.messages)))

    def _render(self, messages: Sequence[Message], reply: bool) -> str:
        return self._template.render(self._merged(messages), add_generation_prompt=reply)

    def _merged(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The system prompt in the first message, where the template has no place for one: as the chat does it."""
        if not self._template.merges_system or len(messages) < 2 or messages[0]["role"] != "system":
            return messages
        first = {"role": messages[1]["role"], "content": JOINT.join(m["content"] for m in messages[:2])}
        return [first, *messages[2:]]

    def _text(self, sample: Sample) -> Example:
        """Plain text: one BOS if the tokenizer adds one, and one end token."""
        ids: list[int] = list(self._tokenizer(self._bare(sample.text), verbose=False)["input_ids"])
        if self._end_id is not None and ids[-1:] != [self._end_id]:
            ids.append(self._end_id)
        return Example(ids, list(ids), sample.row)

    def _bare(self, text: str) -> str:
        """A text without the BOS and end tokens that it brings along itself."""
        bare = text.strip()
        for token, strip in (
            (self._tokenizer.bos_token, str.removeprefix),
            (self._tokenizer.eos_token, str.removesuffix),
        ):
            while token and bare != (shorter := strip(bare, token).strip()):
                bare = shorter
        return bare

    def _conversation(self, sample: Sample) -> list[Example]:
        messages = list(sample.messages)
        whole = self._whole(messages, sample.row)
        if whole is not None:
            return [whole]
        answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        return [self._split(messages[: place + 1], sample.row) for place in answers]

    def _whole(self, messages: list[Message], row: int) -> Example | None:
        """One example with all answers of the conversation; ``None`` if chat would tokenise any prompt differently."""
        text = self._render(messages, False)
        ids = self._ids(text)
        labels = [MASKED] * len(ids)
        stop = 0
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:place], True)
            after = self._render(messages[: place + 1], False)
            if not (text.startswith(after) and after.startswith(before)):
                return None
            start = self._common_ids(ids, before)
            end = len(ids) if after == text else self._common_ids(ids, after)
            if start is None or end is None:
                return None
            ends = [i for i in range(start, end) if ids[i] in self.end_ids]
            if not ends:
                return None
            # What a template writes after the end token (a newline) is written by the template, never by the model.
            stop = ends[-1] + 1
            labels[start:stop] = ids[start:stop]
        if self._loss_on == "all":
            labels[:stop] = ids[:stop]
        return Example(ids, labels, row)

    def _split(self, messages: list[Message], row: int) -> Example:
        """Prompt ids as the chat sends them, then the last answer and an end token."""
        prompt_ids, answer_ids = self._prompt_and_answer(messages)
        ids = prompt_ids + answer_ids
        masked = 0 if self._loss_on == "all" else len(prompt_ids)
        return Example(ids, [MASKED] * masked + ids[masked:], row)

    def _prompt_and_answer(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        before, after = self._render(messages[:-1], True), self._render(messages, False)
        if after.startswith(before):
            answer = after[len(before) :]
        else:  # the template writes the prompt differently once it is answered: what follows it begins with the answer
            content = messages[-1]["content"]
            place = after.rfind(content)
            answer = after[place:] if place >= 0 else content
        prompt_ids, answer_ids = self._ids(before), self._ids(answer)
        ends = [i for i, token in enumerate(answer_ids) if token in self.end_ids]
        if ends:
            answer_ids = answer_ids[: ends[-1] + 1]
        elif self._end_id is not None:
            answer_ids = [*answer_ids, self._end_id]
        return prompt_ids, answer_ids

    def _common_ids(self, ids: list[int], text: str) -> int | None:
        """Length of a text in tokens if its ids are the beginning of ``ids``, else ``None``."""
        start = self._ids(text)
        return len(start) if ids[: len(start)] == start else None

    def _ids(self, text: str) -> list[int]:
        # The template writes special tokens itself: letting the tokenizer add them would double BOS.
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _truncated(self, example: Example) -> Example:
        cut = len(example.input_ids) - self._max_length
        if cut <= 0:
            return example
        return Example(example.input_ids[:-cut], example.labels[:-cut], example.row, cut)


def make_examples_like_chat(
    model: Any, tokenizer: PreTrainedTokenizerBase, *, max_length: int, loss_on: LossOn = "answers"
) -> ExampleMaker:
    """An `ExampleMaker` that does what the chat does.

    Args:
        model: Its generation config names tokens that end a reply.
        tokenizer: Of the model.
        max_length: Most tokens of an example.
        loss_on: What the loss is taken on.

    Returns:
        The maker, with the chat's own template and with every token that ends a reply in the chat.

    Raises:
        ChatTemplateError: The model's template is broken.
    """
    template = ChatTemplate.from_tokenizer(tokenizer)
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [*named] if isinstance(named, (list, tuple)) else [named]
    ends = frozenset(i for i in (*ids, tokenizer.eos_token_id, *template.eos_token_ids) if i is not None)
    return ExampleMaker(tokenizer, template, end_ids=ends, max_length=max_length, loss_on=loss_on)
