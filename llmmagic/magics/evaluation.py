"""What ``%llm_eval`` does."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmmagic.core.events import EvalFinished, Notice, TasksFinished
from llmmagic.magics.arguments import parse_names, parse_pairs
from llmmagic.magics.errors import MagicUsageError
from llmmagic.magics.follow import follow
from llmmagic.magics.sources import resolve_source
from llmmagic.magics.views.evaluation import EvalView

if TYPE_CHECKING:
    from llmmagic.core.session import Session
    from llmmagic.magics.screens.base import FrontEnd


def evaluate(
    session: Session, front_end: FrontEnd, settings: Namespace, variables: Mapping[str, Any]
) -> EvalFinished | TasksFinished | None:
    """Measure the model, and show how it goes.

    Args:
        session: Holds the model.
        front_end: Where to show it.
        settings: The parsed line.
        variables: Of the notebook.

    Returns:
        The figures; ``None`` when it was stopped.

    Raises:
        LLMMagicError: The data or the evaluation is at fault.
    """
    if (settings.data is None) == (settings.tasks is None):
        raise MagicUsageError("Give held-out rows (--data SRC) or tasks (--tasks NAMES), one of the two.")
    if settings.limit is not None and settings.limit < 1:
        raise MagicUsageError(f"--limit must be 1 or more, got {settings.limit}.")
    tasks = parse_names(settings.tasks)
    view = EvalView(settings.data or ", ".join(tasks), unit="tasks" if tasks else "rows")
    if tasks:
        operation = session.evaluate_tasks(tasks, limit=settings.limit)
    else:
        source, note = resolve_source(settings.data, variables)
        if isinstance(note, Notice):
            view.on(note)
        columns = parse_pairs("--map", settings.map or "")
        operation = session.evaluate(source, limit=settings.limit, split=settings.split, columns=columns)
    follow(operation, view, front_end.card_screen(), delay_s=0.3)
    return view.finished
