"""What ``%llm_data`` does."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import TrainConfig
from llmmagic.core.events import Notice
from llmmagic.magics.arguments import parse_names, parse_pairs
from llmmagic.magics.body import parse_body
from llmmagic.magics.errors import MagicUsageError
from llmmagic.magics.follow import follow
from llmmagic.magics.results import DataSummary
from llmmagic.magics.sources import resolve_source
from llmmagic.magics.views.data import DataView

if TYPE_CHECKING:
    from llmmagic.core.session import Session
    from llmmagic.magics.screens.base import FrontEnd


def inspect(
    session: Session, front_end: FrontEnd, settings: Namespace, body: str, variables: Mapping[str, Any]
) -> DataSummary | None:
    """Look at training data, and show it.

    Args:
        session: Holds the model.
        front_end: Where to show it.
        settings: The parsed line.
        body: YAML, as of a training cell.
        variables: Of the notebook.

    Returns:
        The report; ``None`` when it was stopped.

    Raises:
        LLMMagicError: A setting or the data is at fault.
    """
    if settings.rows < 0:
        raise MagicUsageError(f"--rows must be 0 or more, got {settings.rows}.")
    options, lora = parse_body(body)
    config = TrainConfig(
        recipe=settings.recipe,
        split=settings.split,
        columns=parse_pairs("--map", settings.map or ""),
        allow=parse_names(settings.allow),
        options=options,
        lora=lora,
    )
    source, note = resolve_source(settings.source, variables)
    view = DataView(settings.source)
    if isinstance(note, Notice):
        view.on(note)
    operation = session.inspect(source, config, rows=settings.rows)
    follow(operation, view, front_end.card_screen(), delay_s=0.3)
    return None if view.inspected is None else DataSummary(view.inspected, view.card())
