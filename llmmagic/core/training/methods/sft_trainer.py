"""TRL's trainer for the loss on tokens, made to report and to stop."""

from __future__ import annotations

from trl import SFTTrainer

from llmmagic.core.training.trainer import Reporting


class TokenTrainer(Reporting, SFTTrainer):  # type: ignore[misc] # TRL is not typed
    """Trains on tokens that are already made."""
