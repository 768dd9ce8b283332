"""TRL's trainer for pairs of answers, made to report and to stop."""

from __future__ import annotations

from trl import DPOTrainer

from llmmagic.core.training.methods.reference import TokenisedByUs


class PreferenceTrainer(TokenisedByUs, DPOTrainer):  # type: ignore[misc] # TRL is not typed
    """Trains on the columns ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``."""
