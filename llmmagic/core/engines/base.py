"""What an engine is: token ids in, events out.

An engine knows nothing of conversations. Which tokens a prompt consists of is decided before, by the chat template and
the context window, so that every engine gets exactly the same ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llmmagic.core.config import GenerationConfig
from llmmagic.core.errors import ContextOverflowError, EngineError
from llmmagic.core.events import EngineEvent
from llmmagic.core.operation import CancelToken


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do besides generating text."""

    adapters: bool = False
    training: bool = False
    logprobs: bool = False
    hidden_states: bool = False


@runtime_checkable
class Engine(Protocol):
    """Who generates."""

    @property
    def name(self) -> str:
        """``"transformers"``, ``"llama.cpp"``, ``"openai"``."""
        ...

    @property
    def context_window(self) -> int:
        """Tokens that prompt and reply may have together."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    def generate(
        self, prompt_ids: Sequence[int], config: GenerationConfig, cancel: CancelToken
    ) -> Iterator[EngineEvent]:
        """Generate a reply.

        Args:
            prompt_ids: The whole prompt (T,), special tokens included; nothing is added to it.
            config: Sampling settings.
            cancel: Checked between tokens and between chunks of the prompt.

        Yields:
            `PrefillProgress` while the prompt is read, `TextDelta` for each token, `GenerationFinished` last.

        Raises:
            ContextOverflowError: The prompt leaves no room for a reply.
            EngineError: Generation failed.
        """
        ...

    def prefill_ahead(self, prompt_ids: Sequence[int], cancel: CancelToken) -> int:
        """Read what the next prompt may begin with, in idle time, so that its reply starts sooner.

        What the last prompt left behind is kept beside it: the next prompt goes on from the one it has more in common
        with, and comes out the same either way.

        Args:
            prompt_ids: (T,).
            cancel: Heard within a fraction of a second; what was read until then is kept.

        Returns:
            How many tokens are ready now; 0 where nothing can be read ahead, for want of memory for instance.

        Raises:
            EngineError: It failed; the next reply starts as if nothing had been read.
        """
        return 0

    def memory_bytes(self, device: str) -> int:
        """Memory that the model takes now.

        Args:
            device: Where it is.

        Returns:
            What its process holds on a GPU; on a CPU all that the process holds. 0 where it is on another machine.

        Raises:
            EngineError: The process it lives in is gone.
        """
        from llmmagic.core.models.memory import device_memory_bytes, process_memory_bytes

        return device_memory_bytes(device) or process_memory_bytes()

    def reset(self) -> None:
        """Forget the KV cache: weights or adapter have changed."""
        ...

    def close(self) -> None:
        """Free all memory."""
        ...


@runtime_checkable
class MessageEngine(Engine, Protocol):
    """An engine that takes messages: their template is where the model is, on a server."""

    def reply(
        self, messages: Sequence[Mapping[str, Any]], prompt_tokens: int, config: GenerationConfig, cancel: CancelToken
    ) -> Iterator[EngineEvent]:
        """Generate a reply.

        Args:
            messages: With ``role`` and ``content``, oldest first.
            prompt_tokens: What they were counted as, the template's share included.
            config: Sampling settings.
            cancel: Heard at once, while waiting too.

        Yields:
            `Notice` before each further attempt, `PrefillProgress` where the server tells, `TextDelta` without ids,
            `GenerationFinished` last.

        Raises:
            ContextOverflowError: The server says that the prompt is too long.
            EngineError: It refuses, does not answer, or breaks off.
        """
        ...


def check_prompt(prompt_ids: Sequence[int], *, vocab_size: int, context_window: int) -> int:
    """Refuse what no model can read.

    Args:
        prompt_ids: (T,).
        vocab_size: V.
        context_window: Tokens that prompt and reply may have together.

    Returns:
        How many tokens a reply can have; 1 at least.

    Raises:
        EngineError: No prompt, or ids that the model has not.
        ContextOverflowError: No room for a reply.
    """
    if not prompt_ids:
        raise EngineError("The prompt is empty.", hint="Give at least one token.")
    # An id out of range kills the whole process's CUDA context, so it must never get there.
    if min(prompt_ids) < 0 or max(prompt_ids) >= vocab_size:
        raise EngineError(
            f"The prompt has a token id outside 0..{vocab_size - 1}: {min(prompt_ids)}..{max(prompt_ids)}.",
            hint="It was made with the tokenizer of another model.",
        )
    if len(prompt_ids) >= context_window:
        raise ContextOverflowError(
            f"The prompt has {len(prompt_ids)} tokens and the context window holds {context_window}.",
            needed_tokens=len(prompt_ids) + 1,
            context_window=context_window,
            hint="Shorten it, or start a new conversation.",
        )
    return context_window - len(prompt_ids)
