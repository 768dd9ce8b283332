"""The times of a trainer's steps, taken by a callback that does nothing else."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback


class StepClock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Notes when each step ended.

    Attributes:
        began: When training began.
        stamps: When each step ended, in seconds on the same clock.
        tokens: Read so far, padding not counted, where the trainer counts them.
    """

    def __init__(self) -> None:
        """Begin with no step."""
        self.began = 0.0
        self.stamps: list[float] = []
        self.tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer."""
        self.stamps.append(time.perf_counter())
        self.tokens = int(state.num_input_tokens_seen)

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last step."""
        return self.stamps[-1] - self.began

    @property
    def tokens_per_s(self) -> float:
        """Over all steps."""
        return self.tokens / self.seconds
