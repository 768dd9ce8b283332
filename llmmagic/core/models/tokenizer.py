"""The model's tokenizer, checked: what is missing or unsafe in it is repaired where that changes no token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import ModelLoadError, RemoteCodeError
from llmmagic.core.events import Notice
from llmmagic.core.models.cache import Emit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PAD_NAMES = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|padding|>", "<unk>", "<|endoftext|>")
"""Tokens that models have for padding, or that never occur in text."""
_NO_LIMIT = 10**9
"""Tokenizers without a limit say 10**30."""


@contextmanager
def tokenizer_errors(source: str) -> Iterator[None]:
    """Turn what the ``tokenizers`` library raises into a `ModelLoadError`; everything else goes on up.

    Args:
        source: Where the tokenizer comes from, for the message.
    """
    try:
        yield
    except Exception as err:
        if type(err) is not Exception:  # the library is written in Rust and raises the base class itself
            raise
        raise ModelLoadError(f"The tokenizer in {source!r} cannot be read: {first_line(err)}.") from err


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a model folder.

    Args:
        folder: A saved Transformers model.
        trust_remote_code: Let the folder's own code run.

    Returns:
        The tokenizer.

    Raises:
        ModelLoadError: The folder has none, or it cannot be read.
        RemoteCodeError: It comes with code of its own.
    """
    from transformers import AutoTokenizer

    try:
        with tokenizer_errors(str(folder)):
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as err:
        # AutoTokenizer has no error of its own: what is raised depends on which file is missing or broken.
        if "trust_remote_code" in str(err):
            raise remote_code_error(str(folder)) from err
        raise ModelLoadError(
            f"The tokenizer in {str(folder)!r} cannot be read: {first_line(err)}.",
            hint="The folder needs tokenizer.json and tokenizer_config.json beside the weights.",
        ) from err
    if len(tokenizer) == 0:
        raise ModelLoadError(f"The folder {str(folder)!r} has no tokenizer.")
    return tokenizer


def repair_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, *, context_window: int, emit: Emit
) -> None:
    """Give the tokenizer a pad token of its own and the model's limit.

    A pad token that is also an end token is masked in training, and the model never learns to stop. So another one of
    the tokens that exist is taken; the embedding is never resized.

    Args:
        tokenizer: Changed in place.
        model: Its configs learn the pad token too.
        context_window: Tokens that the model can read.
        emit: Told what is missing.

    Raises:
        ModelLoadError: The tokenizer has ids that the model has no embedding for.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    ends = end_ids(tokenizer, model)
    # Single tokens that were added and never given an embedding are common (<pad> of Llama-2 copies) and harmless as
    # long as nothing uses them. A vocabulary that is larger, or an end token outside, is a tokenizer of another model.
    if tokenizer.vocab_size > rows or any(token_id >= rows for token_id in ends):
        raise ModelLoadError(
            f"The tokenizer has {len(tokenizer)} tokens, but the model has embeddings for {rows} only.",
            hint="The tokenizer belongs to another model.",
        )
    if tokenizer.model_max_length > _NO_LIMIT:
        tokenizer.model_max_length = context_window
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ends or tokenizer.pad_token_id >= rows:
        pad = _find_pad(tokenizer, ends, rows)
        if pad is not None:
            tokenizer.pad_token = pad
        elif ends and tokenizer.pad_token_id not in ends:
            tokenizer.pad_token_id = min(ends)
            text = "This model has no token to pad with; its end token is used, and masked by position in training."
            emit(Notice(text, level="warning", topic="pad-token"))
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
        if model.generation_config is not None:
            model.generation_config.pad_token_id = tokenizer.pad_token_id
    if model.generation_config is not None and ends:
        # All of them end a reply, for our engine as for `generate`.
        model.generation_config.eos_token_id = sorted(ends)


def end_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> frozenset[int]:
    """All ids that end a reply: of the tokenizer, the model's config and its generation config."""
    named: list[Any] = [tokenizer.eos_token_id, getattr(model.config, "eos_token_id", None)]
    if model.generation_config is not None:
        named.append(model.generation_config.eos_token_id)
    ids: set[int] = set()
    for value in named:
        if value is not None:
            ids.update(value if isinstance(value, (list, tuple)) else [value])
    return frozenset(ids)


def _find_pad(tokenizer: PreTrainedTokenizerBase, ends: frozenset[int], rows: int) -> str | None:
    vocab = tokenizer.get_added_vocab()
    candidates = [name for name in _PAD_NAMES if name in vocab]
    candidates += [name for name in vocab if name.startswith("<|reserved_special_token")]
    if tokenizer.unk_token is not None:
        candidates.append(tokenizer.unk_token)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in candidates}
    return next((name for name, token_id in ids.items() if token_id not in ends and token_id < rows), None)


def remote_code_error(model_id: str) -> RemoteCodeError:
    """The refusal to run a model's own code, with what allows it."""
    return RemoteCodeError(
        f"{model_id} can only be loaded by running Python code that comes with it.",
        hint="If you trust its authors, add --trust-remote-code (in Python: trust_remote_code=True).",
    )


def first_line(err: BaseException) -> str:
    """The first line of an error of another library: what follows is often a page of advice."""
    return (str(err).strip() or type(err).__name__).splitlines()[0].rstrip(".")
