"""What a look at the session shows."""

from __future__ import annotations

from dataclasses import dataclass, field

from llmmagic.core.events.load import ModelInfo


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """A look at the session.

    Attributes:
        model: What is loaded, if anything.
        busy: Name of the running operation, if any.
        conversations: Name, number of messages and prompt tokens of each conversation.
        device_memory_bytes: CUDA memory in use by this process; 0 on a CPU.
        process_memory_bytes: Resident memory of this process.
        cache_bytes: What converted and quantised models take up on the disk.
        exact: Whether the tokens of the conversations were counted, not estimated.
    """

    model: ModelInfo | None
    busy: str | None
    conversations: tuple[tuple[str, int, int], ...] = ()
    device_memory_bytes: int = 0
    process_memory_bytes: int = 0
    cache_bytes: int = 0
    notes: tuple[str, ...] = field(default=())
    exact: bool = True
