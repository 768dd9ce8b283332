"""TRL's trainer for ratings, made to report and to stop."""

from __future__ import annotations

from trl import KTOTrainer

from llmmagic.core.training.methods.reference import TokenisedByUs


class RatingTrainer(TokenisedByUs, KTOTrainer):  # type: ignore[misc] # TRL is not typed
    """Trains on the columns ``prompt_ids``, ``completion_ids``, ``KL_completion_ids`` and ``label``."""
