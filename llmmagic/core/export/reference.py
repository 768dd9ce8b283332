"""What the original model says at each token of some texts, to compare a converted one with.

The texts are given (teacher forcing): a model that writes by itself drifts away from another one after the first token
that differs, and then nothing can be compared any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import ChatTemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llmmagic.core.chat.template import ChatTemplate

_MOST_TOKENS = 48  # of one reply
# Our own, in styles that models are asked for; no model has learned them by heart.
_TEXTS = (
    (
        "How do I treat a sprained ankle?",
        "Rest it, and put something cold on it for twenty minutes at a time. A firm bandage and a raised foot keep the "
        "swelling down. See a doctor if you cannot stand on it after two days.",
    ),
    (
        "Write a Python function that counts the words of a file.",
        "```python\ndef count_words(path: str) -> int:\n    with open(path, encoding='utf-8') as file:\n"
        "        return sum(len(line.split()) for line in file)\n```",
    ),
    (
        "What is 17 * 6? Explain step by step.",
        "1. 10 * 6 = 60\n2. 7 * 6 = 42\n3. 60 + 42 = 102\n\nSo 17 * 6 = 102.",
    ),
    (
        "Was ist der Unterschied zwischen Wetter und Klima?",
        "Das Wetter ist der Zustand der Luft an einem Ort in diesem Moment. Das Klima ist, was dort über viele Jahre "
        "im Mittel geschieht.",
    ),
    (
        "Tell me the beginning of a story about a lighthouse.",
        "Every evening at nine the keeper climbed the ninety-one steps and lit the lamp. On the third of March the "
        "lamp was burning before she got there.",
    ),
)


@dataclass(frozen=True, slots=True)
class ReferenceText:
    """One text, and what the original says about it.

    Attributes:
        ids: Prompt and reply (T,).
        start: Where the reply begins in it.
        choices: The original's first choice (T - start,) for each token of the reply.
        logprobs: What it gives those, in nats.
    """

    ids: tuple[int, ...]
    start: int
    choices: tuple[int, ...]
    logprobs: tuple[float, ...]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ReferenceText:
        """Of what a JSON file keeps of one."""
        return cls(
            tuple(values["ids"]), int(values["start"]), tuple(values["choices"]), tuple(map(float, values["logprobs"]))
        )


def held_out_tokens(template: ChatTemplate) -> list[tuple[list[int], int]]:
    """The texts in a model's own template.

    Args:
        template: Of the model.

    Returns:
        The ids (T,) of prompt and reply of each, and where the reply begins.
    """
    found = []
    for question, answer in _TEXTS:
        try:
            prompt = template.encode([{"role": "user", "content": question}])
        except ChatTemplateError:  # a template with demands of its own: the bare text will do
            prompt = template.encoder.encode(question)
        reply = template.encoder.encode(answer)[:_MOST_TOKENS]
        if prompt:
            found.append(([*prompt, *reply], len(prompt)))
    return found


def take_reference(model: PreTrainedModel, texts: Sequence[tuple[Sequence[int], int]]) -> list[ReferenceText]:
    """Ask the original.

    Args:
        model: In evaluation mode.
        texts: From `held_out_tokens`.

    Returns:
        One for each text.
    """
    import torch

    result = []
    for ids, start in texts:
        with torch.inference_mode():
            # The logits at a token are about the next one.
            logits = model(input_ids=torch.tensor([list(ids)])).logits[0, start - 1 : -1].float()  # (T - start, V)
            best = torch.log_softmax(logits, dim=-1).max(dim=-1)
        result.append(ReferenceText(tuple(ids), start, tuple(best.indices.tolist()), tuple(best.values.tolist())))
    return result
