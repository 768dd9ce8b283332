"""What the user may set of TRL and PEFT: every key they know, checked before anything is done.

The body of a training cell is YAML, and YAML reads ``2e-4`` as a text. So each value is converted to the type that the
library declares for its key, and a key that no library knows is refused with the nearest one.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib.util
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import MethodName
from llmmagic.core.errors import ConfigError, did_you_mean
from llmmagic.core.training.owned import OWNED, OWNED_LORA

if TYPE_CHECKING:
    from peft import LoraConfig
    from trl import SFTConfig

_EVERYDAY = {
    "alpha": "lora_alpha",
    "batch_size": "per_device_train_batch_size",
    "dropout": "lora_dropout",
    "epochs": "num_train_epochs",
    "lora_r": "r",
    "lr": "learning_rate",
    "rank": "r",
    "steps": "max_steps",
}
"""What people call settings that have longer names."""
CONFIGS: dict[MethodName, str] = {
    "sft": "SFTConfig",
    "pretrain": "SFTConfig",
    "dpo": "DPOConfig",
    "kto": "KTOConfig",
    "grpo": "GRPOConfig",
}
"""Method -> TRL's config."""

SFT_FIXED: dict[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}}

# Lowest value, whether it is itself allowed, and highest. The libraries accept what is outside and fail later or never.
_BOUNDS: dict[str, tuple[float, bool, float | None]] = {
    "eval_steps": (0, False, None),
    "gradient_accumulation_steps": (1, True, None),
    "learning_rate": (0, True, None),
    "logging_steps": (0, False, None),
    "lora_alpha": (0, False, None),
    "lora_dropout": (0, True, 0.999),
    "max_grad_norm": (0, True, None),
    "max_length": (2, True, None),
    "num_train_epochs": (0, False, None),
    "per_device_train_batch_size": (1, True, None),
    "r": (1, True, None),
    "save_steps": (0, False, None),
    "save_total_limit": (1, True, None),
    "seed": (0, True, 2**32 - 1),
    "warmup_steps": (0, True, None),
    "weight_decay": (0, True, None),
}


@dataclass(frozen=True, slots=True)
class Compute:
    """What the loaded model computes with.

    Attributes:
        device: ``"cpu"``, ``"cuda:0"``, ``"mps"``.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``.
    """

    device: str
    dtype: str


def config_class(method: MethodName) -> type[Any]:
    """TRL's config of a method.

    Raises:
        ConfigError: The installed TRL does not have it.
    """
    import trl

    name = CONFIGS[method]
    try:
        found: type[Any] = getattr(trl, name)
    except AttributeError as err:
        raise ConfigError(f"TRL {trl.__version__} has no {name}.", hint="Install trl 1.14 or newer.") from err
    return found


def make_trainer_config(
    cls: type[Any],
    given: Mapping[str, Any],
    base: Mapping[str, Any],
    compute: Compute,
    *,
    owned: Mapping[str, str] = OWNED,
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """The trainer's settings.

    Args:
        cls: TRL's config of the method.
        given: What the user set; wins.
        base: What the recipe and the method set; keys that ``cls`` does not know are left out.
        compute: What the model computes with: decides mixed precision and gradient checkpointing.
        owned: Keys that cannot be set, and why.
        fixed: What the method needs, whatever else is set.

    Returns:
        A checked ``cls`` in which everything that llmmagic owns is set.

    Raises:
        ConfigError: An unknown key, one that cannot be set, or a value that is not allowed.
    """
    checked = check_values(cls, given, owned, "training setting")
    known = {f.name for f in dataclasses.fields(cls)}
    settings = {**_hardware(compute, checked), **{k: v for k, v in base.items() if k in known}, **checked}
    # A number of steps says more than a number of epochs: whichever the user names wins over the recipe's other one.
    if "num_train_epochs" in checked and "max_steps" not in checked:
        settings["max_steps"] = -1
    if "eval_steps" in checked and "eval_strategy" not in checked:
        settings["eval_strategy"] = "steps"
    if "save_steps" in checked and "save_strategy" not in checked:
        settings["save_strategy"] = "steps"
    # The filter would replace a loss that is no number by an average of earlier ones: nobody would ever know.
    quiet = {"logging_steps": 1, "logging_nan_inf_filter": False, "save_strategy": "no", "report_to": "none"}
    settings = _renamed({**quiet, **settings}, known)
    ours = {"disable_tqdm": True, "log_level": "error", "remove_unused_columns": True, **(fixed or {})}
    _check_reports(settings["report_to"])
    try:
        return cls(**{**settings, **ours})
    except (ValueError, TypeError, ImportError) as err:
        raise ConfigError(f"These training settings do not go together: {_first_line(err)}") from err


def _check_reports(report_to: str | Sequence[str] | None) -> None:
    """Transformers looks for the package of a tracker only when the trainer is built, after everything else.

    Raises:
        ConfigError: A tracker that transformers does not know, or that is not installed.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in [report_to] if isinstance(report_to, str) else report_to or ():
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = (*INTEGRATION_TO_CALLBACK, "none", "all")
            hint = did_you_mean(name, known) or f"Known: {', '.join(known)}."
            raise ConfigError(f"report_to cannot be {name!r}.", hint=hint)
        if not any(importlib.util.find_spec(package) for package in (name, f"{name}X")):
            raise ConfigError(
                f"report_to: {name} needs the package {name}, which is not installed.", hint=f"%pip install {name}"
            )


def make_sft_config(given: Mapping[str, Any], base: Mapping[str, Any], compute: Compute) -> SFTConfig:
    """The settings of supervised fine-tuning; see `make_trainer_config`.

    Args:
        given: What the user set; wins.
        base: What the recipe sets.
        compute: What the model computes with.

    Returns:
        A checked ``SFTConfig``.

    Raises:
        ConfigError: An unknown key, one that cannot be set, or a value that is not allowed.
    """
    return make_trainer_config(config_class("sft"), given, base, compute, fixed=SFT_FIXED)


def make_lora_config(given: Mapping[str, Any], base: Mapping[str, Any]) -> LoraConfig:
    """The adapter's settings.

    Args:
        given: What the user set under ``lora:``; wins.
        base: What the recipe sets.

    Returns:
        A checked ``LoraConfig`` for causal language models.

    Raises:
        ConfigError: An unknown key, one that cannot be set, or a value that is not allowed.
    """
    from peft import LoraConfig

    checked = check_values(LoraConfig, given, OWNED_LORA, "LoRA setting")
    try:
        return LoraConfig(**{**base, **checked, "task_type": "CAUSAL_LM"})
    except (ValueError, TypeError, ImportError) as err:
        raise ConfigError(f"These LoRA settings do not go together: {_first_line(err)}") from err


def check_values(cls: type[Any], given: Mapping[str, Any], owned: Mapping[str, str], what: str) -> dict[str, Any]:
    """Check keys and convert values.

    Args:
        cls: The config dataclass whose fields are the keys.
        given: What the user wrote.
        owned: Keys that cannot be set, and why.
        what: What a key is called in messages.

    Returns:
        The converted values.

    Raises:
        ConfigError: An unknown key, one that cannot be set, or a value of the wrong type or out of range.
    """
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    if given.get("packing_strategy") == "wrapped":
        raise ConfigError("packing_strategy 'wrapped' lets rows see each other.", hint="Use bfd or bfd_split.")
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"There is no {what} {key!r}.", hint=_nearest(str(key), cls, known, owned))
        if key in owned:
            raise ConfigError(f"The {what} {key!r} cannot be changed: {owned[key]}.")
        values[key] = _convert(cls, key, value, what)
        _check_bounds(key, values[key])
    return values


def _nearest(key: str, cls: type[Any], known: Sequence[str], owned: Mapping[str, str]) -> str:
    """The hint for a key that there is not."""
    from peft import LoraConfig

    meant = _EVERYDAY.get(key, key)
    if meant in known:
        return f"Did you mean {meant!r}?"
    if meant in LoraConfig.__dataclass_fields__:
        return f"It goes below 'lora:', as {meant!r}."
    near = did_you_mean(key, [name for name in known if name not in owned])
    others = [method for method in CONFIGS if method not in ("sft", "pretrain") and key in _keys_of(method)]
    if others and key not in OWNED:
        return near or f"It is a setting of the method {' and '.join(others)}."
    return near or f"See {cls.__name__} for all of them."


def _keys_of(method: MethodName) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(config_class(method)))


def _convert(cls: type[Any], key: str, value: Any, what: str) -> Any:
    from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

    annotation = _field_types(cls)[key]
    _check_enum(annotation, key, value)
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as err:
        if key == "init_lora_weights" and re.fullmatch(r"pissa_niter_\d+", str(value)):
            return value  # PEFT documents it, and its annotation cannot say it
        reason = err.errors()[0]["msg"]
        raise ConfigError(f"The {what} {key!r} cannot be {value!r}: {reason}.") from err
    except (PydanticSchemaGenerationError, PydanticUserError):
        return value  # a type that only its own library can check


def _check_enum(annotation: Any, key: str, value: Any) -> None:
    """A field that is declared as "one of these names, or a text" takes only the names."""
    enums = [t for t in typing.get_args(annotation) if isinstance(t, type) and issubclass(t, enum.Enum)]
    if not enums or not isinstance(value, str):
        return
    names = [str(member.value) for kind in enums for member in kind]
    if value not in names:
        begins = [name for name in names if name.startswith(value)]
        hint = did_you_mean(begins[0] if begins else value, names) or f"Known: {', '.join(names)}."
        raise ConfigError(f"{key} cannot be {value!r}.", hint=hint)


def _field_types(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):  # a type that is imported only while type checking
        return {f.name: f.type if not isinstance(f.type, str) else Any for f in dataclasses.fields(cls)}


def _check_bounds(key: str, value: Any) -> None:
    if key == "max_steps" and not (value == -1 or value >= 1):
        raise ConfigError(f"max_steps must be at least 1, got {value!r}.", hint="-1 goes by num_train_epochs.")
    if key not in _BOUNDS or not isinstance(value, (int, float)):
        return
    low, closed, high = _BOUNDS[key]
    if (value >= low if closed else value > low) and (high is None or value <= high):
        return
    upper = "" if high is None else f" and <= {high:g}"
    raise ConfigError(f"{key} must be {'>=' if closed else '>'} {low:g}{upper}, got {value!r}.")


def _hardware(compute: Compute, given: Mapping[str, Any]) -> dict[str, Any]:
    on_cuda = compute.device.startswith("cuda")
    settings: dict[str, Any] = {
        # TRL turns both on everywhere; on a CPU bfloat16 is many times slower, and memory is not what is short.
        "bf16": on_cuda and compute.dtype == "bfloat16" and not given.get("fp16"),
        "gradient_checkpointing": on_cuda,
        "dataloader_pin_memory": on_cuda,
        "use_cpu": compute.device == "cpu",
    }
    if on_cuda and compute.dtype == "float16" and not given.get("bf16"):
        settings["fp16"] = True
    return settings


def _renamed(settings: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """Newer versions of transformers warn about the old names of two keys."""
    for old, new in (
        ("gradient_checkpointing", "activation_checkpointing"),
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    ):
        if new in known and old in settings:
            value = settings.pop(old)
            settings.setdefault(new, value)
    return settings


def _first_line(err: BaseException) -> str:
    return str(err).strip().split("\n", 1)[0]
