"""Answers to prompts, drawn as GRPO draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from llmmagic.core.training.examples import make_examples_like_chat

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel
    from llmmagic.core.training.examples import ExampleMaker


def as_messages(prompt: Any) -> list[dict[str, str]]:
    """A prompt as the chat knows it."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def encode_prompts(maker: ExampleMaker, prompts: Sequence[Any]) -> list[list[int]]:
    """Ids of prompts as the chat sends them, (T,) each.

    Args:
        maker: Tokenises.
        prompts: Texts, or lists of messages.
    """
    return [maker.chat_prompt(as_messages(prompt)) for prompt in prompts]


def sample_answers(
    loaded: LoadedModel, prompts: Sequence[Any], args: Any, *, seed: int
) -> tuple[list[str], list[list[int]]]:
    """Answer prompts with the adapter that is on.

    Args:
        loaded: The model.
        prompts: Texts, or lists of messages.
        args: TRL's ``GRPOConfig``: temperature, lengths.
        seed: The same seed gives the same answers of the same weights.

    Returns:
        The texts, and the ids with an end token, (T,) each.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    maker = make_examples_like_chat(model, tokenizer, max_length=loaded.info.context_window)
    ids = encode_prompts(maker, prompts)
    width = max(map(len, ids))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(maker.end_ids)
    input_ids = torch.tensor([[pad] * (width - len(row)) + row for row in ids], device=model.device)  # (B, T)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    model.eval()
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        output = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            do_sample=args.temperature > 0,
            temperature=args.temperature or None,
            top_p=args.top_p,
            top_k=args.top_k,
            max_new_tokens=args.max_completion_length,
            pad_token_id=pad,
            eos_token_id=sorted(maker.end_ids),
            use_cache=True,
        )
    answers = [_until_end(row, maker.end_ids) for row in output[:, width:].tolist()]
    return [str(tokenizer.decode(row, skip_special_tokens=True)) for row in answers], answers


def _until_end(ids: list[int], ends: frozenset[int]) -> list[int]:
    stop = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
    return ids[: stop + 1]
