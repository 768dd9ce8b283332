"""Whether a converted model still says what the original says.

"Good in the notebook, garbage after the export" has many causes: a permutation of the attention's rows that is missing,
another rotary base, a norm that is left out, too few bits. All of them show at once when both are given the same texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from llmmagic.core.events import LoadProgress, Notice, Parity
from llmmagic.core.export.reference import ReferenceText
from llmmagic.core.models.cache import Emit
from llmmagic.core.operation import CancelToken

_ALTERNATIVES = 64
"""How many of the most likely tokens are asked for: the original's first choice is among them, or all is wrong."""
_LIMITS: Mapping[str, tuple[float, float]] = {"q4_0": (0.5, 0.8)}
_LIMITS_8_BITS = (0.9, 0.12)
"""Least agreement, and most difference of log-probabilities in nats.

From 8 bits up, rounding moves a log-probability by some hundredths, and a first choice only where two were nearly
equal: ``demo``, whose 135 million weights suffer more than those of larger models, agrees with itself at 0.96 of the
tokens, and differs by 0.04. In 4 bits it agrees at 0.68 and differs by 0.55. What goes wrong in conversions is far from
that: rows of the attention in another order 0.00 and 5.2, another rotary base 0.61 and 0.91, matrices of two layers
exchanged 0.21 and 3.5, the value matrix of one layer of thirty gone 0.89 and 0.17. The limits lie between.
"""


class SaysNext(Protocol):
    """An engine that can be asked what comes next."""

    def next_tokens(self, prompt_ids: Sequence[int], count: int) -> list[tuple[int, float]]:
        """The most likely next tokens with their log-probabilities, best first."""
        ...


def compare(
    engine: SaysNext, reference: Sequence[ReferenceText], file_type: str, *, emit: Emit, cancel: CancelToken
) -> Parity:
    """Give a converted model the texts that the original was given.

    Args:
        engine: With the converted model.
        reference: What the original said.
        file_type: Type of the file: ``"q8_0"``.
        emit: Gets the progress.
        cancel: Checked at every token.

    Returns:
        How near they are.

    Raises:
        CancelledOperation: Cancelled.
        EngineError: The converted model cannot generate.
    """
    agreed = 0
    differences: list[float] = []
    total = sum(len(text.choices) for text in reference)
    for text in reference:
        emit(LoadProgress("check", len(differences), total, "tokens", file_type))
        for number, (choice, logprob) in enumerate(zip(text.choices, text.logprobs, strict=True)):
            cancel.check()
            # One token is new each time: what is before it is in the engine's cache.
            found = engine.next_tokens(text.ids[: text.start + number], _ALTERNATIVES)
            agreed += found[0][0] == choice
            # Of a token that is not among them it is known that it is no likelier than the last one.
            differences.append(abs(dict(found).get(choice, found[-1][1]) - logprob))
    emit(LoadProgress("check", total, total, "tokens", file_type))
    agreement, difference = agreed / total, sum(differences) / total
    least, most = _LIMITS.get(file_type, _LIMITS_8_BITS)
    return Parity(total, agreement, difference, agreement >= least and difference <= most)


def save_parity(parity: Parity, file: Path) -> None:
    """Keep it beside the file it is about."""
    file.write_text(json.dumps(asdict(parity)), encoding="utf-8")


def load_parity(file: Path) -> Parity | None:
    """What `save_parity` wrote; ``None`` if nothing was measured."""
    try:
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Parity(**values)


def parity_notices(parity: Parity | None, model_id: str, file_type: str) -> tuple[Notice, ...]:
    """What a user must know of a comparison: nothing, or a warning with the figures and what to do."""
    if parity is None or parity.acceptable:
        return ()
    better = "--gguf-type q8_0, or " if file_type == "q4_0" else ""
    text = (
        f"{model_id} converted for llama.cpp ({file_type}) does not say what the original says: the first choice is "
        f"the same at {parity.agreement:.0%} of {parity.tokens} tokens, and log-probabilities differ by "
        f"{parity.mean_difference:.2f} on average. Do not trust its answers. Use {better}--engine transformers."
    )
    return (Notice(text, level="warning", topic="parity"),)
