"""Hand the model to lm-eval-harness (https://github.com/EleutherAI/lm-evaluation-harness), which is an extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import ConfigError, TrainingError, did_you_mean
from llmmagic.core.events import EvalEvent, PrepareProgress, TaskScore, TasksFinished
from llmmagic.core.models.progress import quiet_libraries
from llmmagic.core.models.tokenizer import first_line
from llmmagic.core.operation import CancelToken

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel


def run_tasks(
    loaded: LoadedModel,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    emit: Callable[[EvalEvent], None],
    cancel: CancelToken,
) -> TasksFinished:
    """Run tasks, one after another.

    Args:
        loaded: The session's model, with the adapter that is on.
        tasks: Names, as the harness has them.
        limit: Only so many examples of each.
        emit: Gets `PrepareProgress`, in tasks.
        cancel: Checked between tasks.

    Returns:
        The scores.

    Raises:
        ConfigError: The harness is not installed, or has no such task.
        TrainingError: A task failed.
        CancelledOperation: It was cancelled.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "Tasks are run by lm-eval-harness, which is not installed.", hint="pip install 'llmmagic[eval]'"
        )
    if not tasks:
        raise ConfigError("No task was named.", hint="For instance: --tasks hellaswag,arc_easy")
    with quiet_libraries():
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager()
        for task in tasks:
            if task not in manager.all_tasks:
                hint = did_you_mean(task, manager.all_tasks) or "`lm-eval ls tasks` lists them."
                raise ConfigError(f"lm-eval-harness has no task {task!r}.", hint=hint)
        model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, max_length=loaded.info.context_window)
        scores: list[TaskScore] = []
        for done, task in enumerate(tasks):
            cancel.check()
            emit(PrepareProgress(done=done, total=len(tasks), detail=task))
            try:
                result = simple_evaluate(
                    model=model, tasks=[task], limit=limit, task_manager=manager, log_samples=False
                )
            except (OSError, ValueError, RuntimeError, KeyError, ConnectionError) as err:
                raise TrainingError(f"The task {task} failed: {first_line(err)}.") from err
            scores += read_scores({} if result is None else result["results"])
    emit(PrepareProgress(done=len(tasks), total=len(tasks), detail=tasks[-1]))
    return TasksFinished(tuple(scores), loaded.info.adapter)


def read_scores(results: Mapping[str, Mapping[str, Any]]) -> list[TaskScore]:
    """The scores in what the harness gives: ``{"task": {"acc,none": 0.5, "acc_stderr,none": 0.1, ...}}``.

    Args:
        results: Its ``"results"``.

    Returns:
        One score per task, metric and filter, without the standard errors as scores of their own.
    """
    scores = []
    for task, figures in results.items():
        for key, value in figures.items():
            metric, _, how = key.partition(",")
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not how or metric.endswith("_stderr"):
                continue
            stderr = figures.get(f"{metric}_stderr,{how}")  # "N/A" where it has none
            name = metric if how == "none" else f"{metric} ({how})"
            scores.append(TaskScore(task, name, float(value), float(stderr) if isinstance(stderr, float) else None))
    return scores
