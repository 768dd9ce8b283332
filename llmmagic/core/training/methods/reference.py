"""Trainers that learn against a reference, which is the same model with the adapter off."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from llmmagic.core.training.trainer import Reporting

if TYPE_CHECKING:
    import datasets


class AdapterOffReference(Reporting):
    """Hands TRL an adapter so that the reference is the model without it."""

    @contextmanager
    def _given_to_trl(self, model: Any) -> Iterator[dict[str, Any]]:
        """TRL makes the adapter itself, on the bare model: it is given the one that is there when it does so.

        Handed a model with an adapter, it would copy that one to be the reference, under names of its own.
        """
        base = model.get_base_model()
        trl = sys.modules[next(c.__module__ for c in type(self).__mro__ if c.__module__.startswith("trl."))]
        make = trl.get_peft_model

        def give(bare: Any, *args: Any, **kwargs: Any) -> Any:
            return model if bare is base else make(bare, *args, **kwargs)

        vars(trl)["get_peft_model"] = give
        try:
            yield {"model": base, "peft_config": model.peft_config[model.active_adapter]}
        finally:
            vars(trl)["get_peft_model"] = make


class TokenisedByUs(AdapterOffReference):
    """Trains on answers that are tokens already."""

    @override
    def _prepare_dataset(self, dataset: datasets.Dataset, *args: Any, **kwargs: Any) -> datasets.Dataset:
        """TRL would look for texts to tokenise."""
        return dataset
