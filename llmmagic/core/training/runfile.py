"""A training run as a file: what the line and the body of a training cell say, in one YAML mapping.

```yaml
model: demo
data: medical.jsonl
eval_data: held_out.jsonl
name: medical
max_steps: 200          # any key of TRL's SFTConfig
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
from llmmagic.core.errors import ConfigError, DataNotFoundError

_LOAD_KEYS = ("quantization", "dtype", "device", "revision", "adapter", "max_context", "trust_remote_code")
_TRAIN_KEYS = ("name", "recipe", "split", "resume", "checkpoint_minutes")


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
    train = {key: rest.pop(key) for key in _TRAIN_KEYS if key in rest}
    columns, lora, allow = rest.pop("map", None) or {}, rest.pop("lora", None) or {}, rest.pop("allow", None) or ()
    for key, value in (("map", columns), ("lora", lora)):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} must be a mapping, got {value!r}.")
    allow = (allow,) if isinstance(allow, str) else tuple(allow)
    config: TrainConfig = replace_known(
        TrainConfig, {**train, "columns": columns, "lora": lora, "allow": allow, "options": rest}
    )
    loading: LoadConfig = replace_known(LoadConfig, load)
    return RunFile(loading, config, data, eval_data)
