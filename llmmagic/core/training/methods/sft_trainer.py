"""TRL's trainer for the loss on tokens, made to report and to stop."""

from __future__ import annotations

import copy
from typing import Any

from trl import SFTTrainer

from llmmagic.core.training.trainer import Reporting


class TokenTrainer(Reporting, SFTTrainer):  # type: ignore[misc] # TRL is not typed
    """Trains on tokens that are already made."""

    def __init__(self, model: Any, args: Any, *given: Any, **named: Any) -> None:
        """Set it up; see `Reporting`."""
        if args.padding_free and not args.packing:
            # TRL wants to hear that nobody relies on it to cut rows off: they were, when they were tokenised.
            args = copy.copy(args)
            args.max_length = None
        super().__init__(model, args, *given, **named)
