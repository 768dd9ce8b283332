"""What ``%%llm_train`` does."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import TrainConfig, replace_known
from llmmagic.core.errors import ConfigError, DataNotFoundError, did_you_mean
from llmmagic.core.events import Notice
from llmmagic.core.training.runfile import RunFile, training_settings, write_run_file
from llmmagic.magics.arguments import parse_names, parse_pairs
from llmmagic.magics.body import parse_body
from llmmagic.magics.errors import MagicUsageError
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
        The summary; ``None`` when it was stopped before the first step, or written down as a run file.

    Raises:
        LLMMagicError: A setting, the data or the training is at fault.
    """
    run = _settings_of(settings, body, variables, session)
    config = run.config
    source, note = resolve_source(run.data, variables)
    eval_source, eval_note = None, None
    if run.eval_data is not None:
        eval_source, eval_note = resolve_source(run.eval_data, variables)
    if settings.save is not None:
        _save_run(session, front_end, settings.save, config, source, eval_source)
        return None
    view = TrainView(config.name, dry_run=settings.dry_run)
    for notice in (note, eval_note):
        if isinstance(notice, Notice):
            view.on(notice)
    operation = session.train(
        source, config, eval_data=eval_source, dry_run=settings.dry_run, processes=settings.processes
    )
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


@dataclass(frozen=True, slots=True)
class CellRun:
    """What a cell says: line and body together.

    Attributes:
        config: How it is trained.
        data: Name of the data.
        eval_data: Name of the held-out data, if any.
    """

    config: TrainConfig
    data: str
    eval_data: str | None


def _settings_of(settings: Namespace, body: str, variables: Mapping[str, Any], session: Session) -> CellRun:
    """Put line and body together: what is in both must not differ, so the line wins where it says something."""
    options, lora = parse_body(body)
    for key in ("model", "quantization"):
        if key in options:
            raise ConfigError(
                f"{key}: is a key of run files; in a cell the loaded model is trained.", hint="Load it with %llm_load."
            )
    data, eval_data = options.pop("data", None), options.pop("eval_data", None)
    data, eval_data = settings.data or data, settings.eval_data or eval_data
    if not isinstance(data, str):
        raise MagicUsageError("There is no data: give --data SRC, or a line 'data: SRC' in the body.")
    given = training_settings({**options, "lora": lora})
    line = {"name": settings.name, "method": settings.method, "recipe": settings.recipe, "split": settings.split}
    given |= {key: value for key, value in line.items() if value is not None}
    if settings.map:
        given["columns"] = parse_pairs("--map", settings.map)
    if settings.allow:
        given["allow"] = parse_names(settings.allow)
    if settings.resume:
        given["resume"] = True
    given["samples"] = (*given.get("samples", ()), *(settings.sample or ()))
    if settings.sample_conversation is not None:
        talk = session.conversation(settings.sample_conversation).path()
        messages = tuple({"role": message.role, "content": message.content} for message in talk)
        given["samples"] = (*given["samples"], messages)
    if settings.sample_steps is not None:
        given["sample_steps"] = settings.sample_steps
    rewards = parse_names(settings.reward) or given["reward"]
    given["reward"] = tuple(_reward(name, variables) for name in rewards)
    config: TrainConfig = replace_known(TrainConfig, given)
    return CellRun(config, data, None if eval_data is None else str(eval_data))


def _reward(name: str, variables: Mapping[str, Any]) -> Any:
    """The function that a variable holds; ``FILE.py:NAME`` stays a name."""
    if name in variables:
        return variables[name]
    if ":" in name:
        return name
    functions = [key for key, value in variables.items() if callable(value) and not key.startswith("_")]
    raise DataNotFoundError(
        f"There is no reward function {name!r} in this notebook.",
        hint=did_you_mean(name, functions) or f"Define it in a cell: def {name}(completions, **columns): ...",
    )


def _save_run(
    session: Session, front_end: FrontEnd, file: str, config: TrainConfig, source: Any, eval_source: Any
) -> None:
    """Write the cell down as a run file."""
    for data in (source, eval_source):
        if data is not None and not isinstance(data, str):
            raise ConfigError(
                "A run file can only name data that is in a file or on the Hub, not in a variable.",
                hint="Save the rows as JSON Lines and give the file's name.",
            )
    run = RunFile(session.load_config, config, source, eval_source)
    path = write_run_file(Path(file).expanduser(), run)
    front_end.say(f"Saved to {path}. Run it with: python -m llmmagic.train {path}")
