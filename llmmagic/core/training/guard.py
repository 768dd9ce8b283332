"""Lends the session's model to a trainer and puts back what trainers leave behind."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from llmmagic.core.operation import CancelledOperation, CancelToken

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel

_LIBRARIES = ("transformers", "trl", "accelerate", "peft")
# accelerate wraps forward for mixed precision, TRL replaces it to fuse head and loss: once per trainer, for good.
_PATCHED = ("forward", "_original_forward")


@contextmanager
def lent_model(loaded: LoadedModel) -> Iterator[None]:
    """While a trainer has the model.

    After it, however it ended: evaluation mode, the model's and the tokenizer's own settings, no hooks, no patched
    ``forward``, no gradient checkpointing, random state and log levels as before.

    Args:
        loaded: The session's model, with its adapter on.
    """
    model = loaded.model
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, generation_config = dict(base.config.__dict__), copy.deepcopy(base.generation_config)
    tokens = {name: getattr(loaded.tokenizer, name) for name in ("pad_token", "padding_side", "truncation_side")}
    patched: list[tuple[Any, dict[str, Any]]] = [
        (part, {k: v for k in _PATCHED if (v := vars(part).get(k)) is not None}) for part in (model, base)
    ]
    dropouts = {part: part.p for part in model.modules() if isinstance(part, torch.nn.Dropout)}
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(_random_state())
        try:
            yield
        finally:
            model = loaded.model  # a PeftModel by now, if the adapter is new
            if model is not patched[0][0]:
                patched.append((model, {}))
            for part, before in patched:
                for name in _PATCHED:
                    vars(part).pop(name, None)
                vars(part).update(before)
            # Newer versions of transformers renamed it and warn about the old name.
            renamed = hasattr(base, "activation_checkpointing_disable")
            (base.activation_checkpointing_disable if renamed else base.gradient_checkpointing_disable)()
            base.disable_input_require_grads()
            base.config.__dict__.clear()
            base.config.__dict__.update(config)
            base.generation_config = generation_config
            for part, probability in dropouts.items():  # preference methods turn dropout off, for good
                part.p = probability
            for name, value in tokens.items():
                setattr(loaded.tokenizer, name, value)
            model.zero_grad(set_to_none=True)
            model.eval()


@contextmanager
def _random_state() -> Iterator[None]:
    """The trainer seeds everything: without this every chat after a training would sample the same."""
    import numpy as np

    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Only errors of the training libraries reach the user: what else there is to know is said by events."""
    before: list[tuple[logging.Logger, int]] = []
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        before.append((logger, logger.level))
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # PEFT and TRL still use the old name for what transformers calls activation checkpointing now.
            warnings.filterwarnings("ignore", r".*gradient_checkpointing\w*` is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


def is_out_of_memory(err: BaseException) -> bool:
    """Whether an error says that memory has run out; on the CPU torch says so only in the text."""
    text: Any = str(err)
    return isinstance(err, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text


@contextmanager
def stops_inside(model: torch.nn.Module, cancel: CancelToken) -> Iterator[None]:
    """Let a forced cancel leave a step in the middle, between two layers of the forward pass.

    The optimizer is never interrupted, so the weights stay those of the last whole step.
    """

    def leave(module: torch.nn.Module, args: Any) -> None:
        if cancel.forced:
            raise CancelledOperation

    layers = [layer for part in model.modules() if isinstance(part, torch.nn.ModuleList) for layer in part]
    hooks = [layer.register_forward_pre_hook(leave) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
