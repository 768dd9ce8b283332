"""How the rows of a batch are put together, so that little time goes into padding.

Three ways, which learn the same from the same rows:

- *padded*: each row as long as the longest of its batch.
- *packed within the batch* (padding-free): the rows of a batch one after the other in one sequence, each seeing only
  itself. The steps are those of padded batches: same rows, same number, same loss. Packing into sequences of full
  length (``packing: true``) puts several times as many rows into a step and so makes far fewer of them: 86 short rows
  are 22 steps of four, but only 4 of four full sequences.
- *grouped by length*: padded, but batches are made of rows of about the same length.

Whether rows stay apart is tried out on the model itself, not looked up by its name.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    import datasets

    from llmmagic.core.models.loaded import LoadedModel

Batching = Literal["padded", "packed", "grouped"]

_CHOSEN_BY = ("packing", "padding_free", "train_sampling_strategy", "group_by_length")
_TRIED_TOKENS = 12
_LEAK_RATIO = 8.0
_DRAWN_BATCHES = 200
_WORTH = 0.97
"""What a way must cost less than padding, as a share, to be worth it."""
_VARLEN = "flash"  # attention that computes each row by itself, whatever stands beside it


@dataclass(frozen=True, slots=True)
class Choice:
    """How batches are made.

    Attributes:
        batching: The way.
        padding: Share of the positions that padded batches would waste.
    """

    batching: Batching
    padding: float


def choose_batching(loaded: LoadedModel, args: Any, data: datasets.Dataset, given: Mapping[str, Any]) -> Choice | None:
    """Choose how batches are made.

    Args:
        loaded: The model; two short texts are run through it.
        args: The trainer's settings.
        data: With a column ``input_ids``.
        given: What the user has set: whoever names one of the ways gets it.

    Returns:
        The cheapest way that keeps rows apart; ``None`` if there is nothing to choose.
    """
    rows = args.per_device_train_batch_size
    if rows < 2 or len(data) < 2 or any(key in given for key in _CHOSEN_BY):
        return None
    import pyarrow.compute as pc

    sizes: list[int] = pc.list_value_length(data.data.column("input_ids")).to_pylist()
    config = loaded.model.config.get_text_config()
    padded, packed, tokens = _costs(sizes, rows, config)
    padding = 1 - sum(sizes) / max(tokens, 1)
    if packed < _WORTH * padded and rows_stay_apart(loaded.model):
        return Choice("packed", padding)
    return Choice("grouped" if padding > 1 - _WORTH else "padded", padding)


def rows_stay_apart(model: Any) -> bool:
    """Whether two texts in one sequence do not see each other, when their positions both begin at 0.

    Args:
        model: A causal language model.

    Returns:
        Whether the second text's logits are those it has alone, and would not be if it saw the first.
    """
    device = model.get_input_embeddings().weight.device
    vocab = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(vocab, (1, 2 * _TRIED_TOKENS), generator=torch.Generator().manual_seed(0)).to(device)
    places = torch.arange(2 * _TRIED_TOKENS, device=device)[None]
    second = slice(_TRIED_TOKENS, None)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = model(input_ids=ids[:, second], use_cache=False).logits[0].float()  # (T, V)
            packed = model(input_ids=ids, position_ids=places % _TRIED_TOKENS, use_cache=False).logits[0, second]
            joined = model(input_ids=ids, position_ids=places, use_cache=False).logits[0, second]
    except (TypeError, ValueError):  # a model that takes no positions
        return False
    finally:
        model.train(training)
    leak = (joined.float() - alone).abs().max()
    return bool((packed.float() - alone).abs().max() * _LEAK_RATIO < leak)


def _costs(sizes: Sequence[int], rows: int, config: Any) -> tuple[float, float, int]:
    """What a pass over rows in random batches costs: padded, packed; and the positions of the padded batches.

    Matrices cost the same for each position, attention what positions times positions are (Kaplan et al.,
    arXiv:2001.08361, table 1): ``12 h**2`` and ``2 h`` for each position that is looked at, up to a common factor.
    """
    hidden = int(config.hidden_size)
    varlen = _VARLEN in str(getattr(config, "_attn_implementation", ""))
    draw = random.Random(0)
    padded = packed = 0.0
    positions = batches = 0
    order = list(sizes)
    while batches < _DRAWN_BATCHES:
        draw.shuffle(order)
        for start in range(0, len(order) - rows + 1, rows):
            batch = order[start : start + rows]
            longest, total = max(batch), sum(batch)
            padded += rows * longest * (12 * hidden**2 + 2 * hidden * longest)
            seen = sum(size * size for size in batch) if varlen else total * total
            packed += total * 12 * hidden**2 + 2 * hidden * seen
            positions += rows * longest
            batches += 1
        if len(order) < rows:
            break
    # per row of the data, so that it can be held against the sum of their sizes
    return padded, packed, round(positions / max(batches * rows, 1) * len(sizes))
