"""Reward functions: where they come from, how they are called, and whether they work before the first step."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmmagic.core.errors import ConfigError, DataNotFoundError, TrainingError, did_you_mean
from llmmagic.core.models.tokenizer import first_line

_PROBE_ANSWERS = ("", "Yes.", "No, because 42 is even.", "I am not sure.\n\n1. First\n2. Second")


@dataclass
class Reward:
    """A reward function that says what is wrong with it.

    Attributes:
        function: The user's; called as TRL calls it.
        name: What it is called in the log and in messages.
    """

    function: Callable[..., Any]
    name: str

    def __post_init__(self) -> None:
        self.__name__ = self.name  # TRL reports each function under this

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Judge answers.

        Args:
            prompts: A text or a list of messages each, as the data has them.
            completions: The answers, likewise.
            **columns: The other columns of the data, and what TRL passes besides.

        Returns:
            A number per answer; ``None`` where the function does not apply.

        Raises:
            TrainingError: It failed, or gave something else.
        """
        try:
            given = self.function(prompts=prompts, completions=completions, **columns)
            rewards = [None if value is None else float(value) for value in given]
        except Exception as err:  # it is the user's code: whatever it raises is what there is to say
            reason = f"{type(err).__name__}: {first_line(err)}"
            raise TrainingError(f"The reward function {self.name} failed: {reason}.", hint=_SIGNATURE) from err
        if len(rewards) != len(completions):
            raise TrainingError(
                f"The reward function {self.name} gave {len(rewards)} numbers for {len(completions)} answers.",
                hint=_SIGNATURE,
            )
        if any(value is not None and not math.isfinite(value) for value in rewards):
            raise TrainingError(f"The reward function {self.name} gave a value that is no number.")
        return rewards


_SIGNATURE = "It gets prompts=, completions= and the data's other columns, and gives one number per completion."


def make_rewards(given: Sequence[Any]) -> list[Reward]:
    """Reward functions from what the user gave.

    Args:
        given: Functions, or ``"FILE.py:NAME"``.

    Returns:
        At least one.

    Raises:
        ConfigError: None, or something that cannot be called.
        DataNotFoundError: No such file or function.
    """
    if not given:
        raise ConfigError(
            "grpo needs a reward function.",
            hint="Define one in the notebook and name it: --reward NAME (in Python: reward=[function]).",
        )
    rewards = []
    for one in given:
        function = _from_file(one) if isinstance(one, str) else one
        if not callable(function):
            raise ConfigError(f"A reward must be a function, got a {type(function).__name__}.")
        if inspect.iscoroutinefunction(function):
            raise ConfigError("A reward must be a plain function, not an async one.")
        rewards.append(Reward(function, str(getattr(function, "__name__", type(function).__name__))))
    return rewards


def _from_file(text: str) -> Any:
    """The function that ``"FILE.py:NAME"`` names. The file is the user's own, and is run."""
    file, colon, name = text.rpartition(":")
    path = Path(file).expanduser()
    if not colon or path.suffix != ".py":
        raise ConfigError(f"{text!r} names no reward function.", hint="Write it like rewards.py:brief.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise DataNotFoundError(f"There is no file {str(path)!r} to take the reward function {name!r} from.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as err:  # the user's code, as above
        raise ConfigError(f"{path.name} cannot be run: {type(err).__name__}: {first_line(err)}.") from err
    if name not in vars(module):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise DataNotFoundError(f"{path.name} has no function {name!r}.", hint=did_you_mean(name, names))
    return vars(module)[name]


def probe(rewards: Sequence[Reward], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Try reward functions on answers that differ in every way.

    Args:
        rewards: To be tried.
        rows: Some of the data: ``prompt`` and the columns that the functions get.

    Returns:
        Names of those that gave all of them the same.

    Raises:
        TrainingError: One failed.
    """
    constant = []
    prompts = [row["prompt"] for row in rows for _ in _PROBE_ANSWERS]
    answers: list[Any] = [text for _ in rows for text in _PROBE_ANSWERS]
    if rows and isinstance(rows[0]["prompt"], list):
        answers = [[{"role": "assistant", "content": text}] for text in answers]
    names = [name for name in rows[0] if name != "prompt"]
    columns = {name: [row.get(name) for row in rows for _ in _PROBE_ANSWERS] for name in names}
    columns["completion_ids"] = [[0] for _ in answers]
    for reward in rewards:
        given = reward(prompts, answers, **columns, trainer_state=None, **_LOGS)
        if len(set(given)) == 1:
            constant.append(f"{reward.name} ({given[0]})")
    return constant


def _log_nothing(*args: Any, **kwargs: Any) -> None:
    """What a function logs while it is tried is not part of the run."""


_LOGS: dict[str, Any] = {"log_extra": _log_nothing, "log_metric": _log_nothing}
