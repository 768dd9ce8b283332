"""What ``%%llm_train`` does."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import TrainConfig
from llmmagic.core.events import Notice
from llmmagic.magics.arguments import parse_names, parse_pairs
from llmmagic.magics.body import parse_body
from llmmagic.magics.follow import follow
from llmmagic.magics.results import TrainSummary
from llmmagic.magics.sources import resolve_source
from llmmagic.magics.views.train import TrainView

if TYPE_CHECKING:
    from llmmagic.core.session import Session
    from llmmagic.magics.screens.base import FrontEnd


def train(
    session: Session, front_end: FrontEnd, settings: Namespace, body: str, variables: Mapping[str, Any]
) -> TrainSummary | None:
    """Train, and show how it goes.

    Args:
        session: Holds the model.
        front_end: Where to show it.
        settings: The parsed line.
        body: YAML.
        variables: Of the notebook.

    Returns:
        The summary; ``None`` when it was stopped before the first step.

    Raises:
        LLMMagicError: A setting, the data or the training is at fault.
    """
    options, lora = parse_body(body)
    config = TrainConfig(
        name=settings.name,
        recipe=settings.recipe,
        split=settings.split,
        resume=settings.resume,
        columns=parse_pairs("--map", settings.map or ""),
        allow=parse_names(settings.allow),
        options=options,
        lora=lora,
    )
    source, note = resolve_source(settings.data, variables)
    eval_source, eval_note = None, None
    if settings.eval_data is not None:
        eval_source, eval_note = resolve_source(settings.eval_data, variables)
    view = TrainView(settings.name, dry_run=settings.dry_run)
    for notice in (note, eval_note):
        if isinstance(notice, Notice):
            view.on(notice)
    operation = session.train(source, config, eval_data=eval_source, dry_run=settings.dry_run)
    # What a dry run has found out about the data is shown, also if training on it would be refused.
    follow(
        operation,
        view,
        front_end.card_screen(),
        delay_s=0.3,
        tells=lambda: settings.dry_run and view.inspected is not None,
    )
    if view.started is None or (view.finished is None and not settings.dry_run):
        return None
    losses = tuple((step.step, step.loss) for step in view.steps if step.loss is not None)
    return TrainSummary(view.started, view.finished, losses, tuple(view.evals), view.card(), view.inspected)
