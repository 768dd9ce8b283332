"""A training run as a file: what the line and the body of a training cell say, in one YAML mapping.

```yaml
model: demo
data: medical.jsonl
eval_data: held_out.jsonl
method: sft             # or pretrain, dpo, kto, grpo
name: medical
output_dir: ./medical   # where the adapter goes
max_steps: 200          # any key of the method's config in TRL
lora:                   # any key of PEFT's LoraConfig
  r: 32
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmmagic.core.config import LoadConfig, TrainConfig, replace_known
from llmmagic.core.errors import ConfigError, DataNotFoundError, StorageError

_LOAD_KEYS = ("quantization", "dtype", "device", "revision", "adapter", "max_context", "trust_remote_code")
_TRAIN_KEYS = (
    "name",
    "method",
    "recipe",
    "split",
    "resume",
    "checkpoint_minutes",
    "reward",
    "peft",
    "model_config",
    "samples",
    "sample_steps",
    "sample_tokens",
)


@dataclass(frozen=True, slots=True)
class RunFile:
    """A run that can be started anywhere.

    Attributes:
        load: Which model.
        train: How it is trained.
        data: What on.
        eval_data: What is held out, if anything.
    """

    load: LoadConfig
    train: TrainConfig
    data: str
    eval_data: str | None


def read_run_file(path: Path) -> RunFile:
    """Read and check a run file.

    Args:
        path: YAML.

    Returns:
        The run.

    Raises:
        DataNotFoundError: There is no such file.
        ConfigError: No valid YAML, a missing key, or a value that is not allowed. Keys of TRL and PEFT are checked when
            training starts.
    """
    import yaml

    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise DataNotFoundError(f"The run file {str(path)!r} cannot be read: {err.strerror or err}.") from err
    except yaml.MarkedYAMLError as err:
        where = f" in line {err.problem_mark.line + 1}" if err.problem_mark else ""
        raise ConfigError(f"{path.name} is no valid YAML: {err.problem or err.context}{where}.") from err
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path.name} is no valid YAML: {err}.") from err
    if not isinstance(body, dict):
        raise ConfigError(f"{path.name} must hold 'key: value' lines.")
    return parse_run(body)


def parse_run(body: Mapping[str, Any]) -> RunFile:
    """Sort the keys of a run: the model's, the training's, and TRL's.

    Args:
        body: Key -> value.

    Returns:
        The run.

    Raises:
        ConfigError: A missing key, or a value that is not allowed.
    """
    rest = dict(body)
    for key in ("model", "data"):
        if not isinstance(rest.get(key), str):
            raise ConfigError(f"A run needs {key!r}.", hint="For instance: model: demo, data: rows.jsonl.")
    load = {"model_id": rest.pop("model"), **{key: rest.pop(key) for key in _LOAD_KEYS if key in rest}}
    data, eval_data = rest.pop("data"), rest.pop("eval_data", None)
    config: TrainConfig = replace_known(TrainConfig, training_settings(rest))
    loading: LoadConfig = replace_known(LoadConfig, load)
    return RunFile(loading, config, data, eval_data)


def training_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Sort the keys of a run, or of a training cell: what is ours, and what is TRL's.

    Args:
        body: Key -> value, without those of the model and the data.

    Returns:
        Fields of `TrainConfig`; what is not ours is in ``options``.

    Raises:
        ConfigError: A value of the wrong kind.
    """
    rest = dict(body)
    settings = {key: rest.pop(key) for key in _TRAIN_KEYS if key in rest}
    if "samples" in settings:
        given = settings["samples"] or ()
        settings["samples"] = tuple(given) if isinstance(given, list) else (given,) if isinstance(given, str) else given
    columns, lora, allow = rest.pop("map", None) or {}, rest.pop("lora", None) or {}, rest.pop("allow", None) or ()
    model_config = settings.get("model_config") or {}
    for key, value in (("map", columns), ("lora", lora), ("model_config", model_config)):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a mapping, got {value!r}.")
    reward = settings.pop("reward", None) or ()
    settings["reward"] = _names(reward)
    settings["model_config"] = model_config
    return {**settings, "columns": columns, "lora": lora, "allow": _names(allow), "options": rest}


def _listed(value: Any) -> Any:
    """Tuples as lists, which is what YAML has."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _names(value: Any) -> tuple[Any, ...]:
    """A list of names, also as one text with commas."""
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",") if name.strip())
    return tuple(value)


def write_run_file(path: Path, run: RunFile) -> Path:
    """Write a run down, so that ``python -m llmmagic.train PATH`` does it.

    Args:
        path: YAML; a file that is there is replaced.
        run: The run.

    Returns:
        The file.

    Raises:
        ConfigError: A reward function that is in no file.
        StorageError: It cannot be written.
    """
    import yaml

    for reward in run.train.reward:
        if not isinstance(reward, str):
            name = getattr(reward, "__name__", "it")
            raise ConfigError(
                f"The reward function {name} is in the notebook, and a run file cannot hold it.",
                hint=f"Put it into a file and name it: --reward rewards.py:{name}.",
            )
    defaults = LoadConfig(model_id=run.load.model_id)
    body: dict[str, Any] = {"model": run.load.model_id}
    body |= {key: getattr(run.load, key) for key in _LOAD_KEYS if getattr(run.load, key) != getattr(defaults, key)}
    body["data"] = run.data
    if run.eval_data is not None:
        body["eval_data"] = run.eval_data
    plain = TrainConfig()
    for key in _TRAIN_KEYS:
        value = getattr(run.train, key)
        if key == "name" or (key != "resume" and value != getattr(plain, key)):
            body[key] = _listed(value)
    named = {"map": dict(run.train.columns), "allow": list(run.train.allow), "lora": dict(run.train.lora)}
    body |= {key: value for key, value in named.items() if value}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump({**body, **run.train.options}, sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
    except OSError as err:
        raise StorageError(f"{path} cannot be written: {err.strerror or err}.") from err
    return path
