"""Everything that can be known before the first step: settings, data, number of steps. Touches no weights."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import LoraConfig

from llmmagic.core.config import TrainConfig, data_dir
from llmmagic.core.errors import DataError, TrainingError
from llmmagic.core.events import Notice, TrainStarted
from llmmagic.core.models.names import TINY_RANDOM
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.adapter import count_parameters
from llmmagic.core.training.census import check_allowed
from llmmagic.core.training.checkpoints import Checkpoints
from llmmagic.core.training.methods.base import DataRequest, Emit, Method, MethodData
from llmmagic.core.training.methods.registry import METHODS
from llmmagic.core.training.options import Compute, config_class, make_lora_config, make_trainer_config
from llmmagic.core.training.prepared import TokenizedCache
from llmmagic.core.training.recipes import RECIPES, RecipeSettings
from llmmagic.core.training.sources import DataSource
from llmmagic.core.training.trainable import Trainable, plain_setting, trains_all

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel

_HELD_OUT = "Held-out data: "
_KEPT = 2  # checkpoints: the last, and one before it


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """A run that has not begun.

    Attributes:
        config: What was asked for.
        method: How it is trained.
        args: Settings of the trainer.
        lora: Settings of a new adapter.
        full: All weights are trained, and there is no adapter.
        data: What is trained on.
        eval_data: What is held out, if anything.
        output_dir: Where the adapter goes.
        total_steps: Optimizer steps.
        checkpoints: Where they are written.
        resume_from: The checkpoint to go on from, if that was asked for.
    """

    config: TrainConfig
    method: Method
    args: Any
    lora: LoraConfig
    full: bool
    data: MethodData
    eval_data: MethodData | None
    output_dir: Path
    total_steps: int
    checkpoints: Checkpoints
    resume_from: Path | None

    @property
    def batch_size(self) -> int:
        """Rows per optimizer step, over all processes."""
        return self.method.rows_per_step(self.args)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files; the only one, unless it was launched with others."""
        return bool(self.args.process_index == 0)

    def lora_to_attach(self, loaded: LoadedModel) -> LoraConfig:
        """Settings of the adapter: of the one in the checkpoint when a run resumes in a new session."""
        saved = None if self.resume_from is None else self.resume_from / self.config.name
        if saved is None or self.config.name in loaded.info.adapters:
            return self.lora
        settings = LoraConfig.from_pretrained(str(saved))
        settings.inference_mode = False  # it was saved to be used; it goes on being trained
        return settings


def plan_training(
    loaded: LoadedModel,
    source: DataSource,
    config: TrainConfig,
    eval_source: DataSource | None,
    emit: Emit,
    cancel: CancelToken,
    *,
    cache: TokenizedCache | None = None,
    views: int = 0,
) -> TrainPlan:
    """Read data and settings.

    Args:
        loaded: The session's model; not changed.
        source: Rows to train on.
        config: Recipe and settings.
        eval_source: Held-out rows.
        emit: Gets `Notice`, `PrepareProgress` and `DataInspected`.
        cancel: Checked while rows are tokenised.
        cache: Rows that were tokenised before, in an inspection or another run.
        views: How many rows the report shows token by token.

    Returns:
        The plan.

    Raises:
        ConfigError: A setting that is unknown or not allowed.
        DataError: Data that cannot be read, or that is known to train wrongly.
        TrainingError: Evaluation is asked for and there are no held-out rows, or there is nothing to resume.
        CancelledOperation: It was cancelled.
    """
    method = METHODS[config.method]
    check_allowed(config.allow, method.findings)
    recipe = RECIPES[config.recipe]
    full = trains_all(loaded, config)
    args = make_trainer_config(
        config_class(config.method),
        config.options,
        _base_options(recipe, method, loaded, config),
        Compute(loaded.info.device, loaded.info.dtype),
        owned=method.owned,
        fixed=method.fixed,
    )
    lora = make_lora_config(config.lora, recipe.lora)
    if recipe.quantization not in (None, loaded.info.quantization):
        emit(
            Notice(
                f"The recipe {config.recipe!r} is meant for a model in {recipe.quantization}; this one is in "
                f"{loaded.info.quantization}.",
                level="warning",
                topic="recipe-quantization",
            )
        )
    request = DataRequest(source, config.split, config, args, loaded, emit, cancel, cache=cache, views=views)
    data = method.read(request)
    eval_data = None
    if eval_source is not None:
        eval_data = _held_out(method, request, eval_source, data.fingerprints)
    elif args.eval_strategy != "no":
        raise TrainingError("eval_steps is set, but there is nothing to evaluate on.", hint="Give evaluation data.")
    named = "output_dir" in config.options or "output_dir" in recipe.options
    output_dir = Path(args.output_dir) if named else data_dir() / ("models" if full else "adapters") / config.name
    args.output_dir = str(output_dir)
    total_steps = method.total_steps(args, len(data.dataset))
    record = {"data": data.digest, "seed": args.seed, "method": config.method, **_run_of(args)}
    checkpoints = Checkpoints(output_dir, args.save_total_limit or _KEPT, record)
    resume_from = checkpoints.require() if config.resume else None
    return TrainPlan(
        config, method, args, lora, full, data, eval_data, output_dir, total_steps, checkpoints, resume_from
    )


def _run_of(args: Any) -> dict[str, int]:
    """What makes steps of one run the same as those of another."""
    return {"batch size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size}


def _base_options(recipe: RecipeSettings, method: Method, loaded: LoadedModel, config: TrainConfig) -> dict[str, Any]:
    fresh = bool(config.model_config) or loaded.info.model_id == TINY_RANDOM
    options = {**recipe.options, **method.defaults(full=trains_all(loaded, config), fresh=fresh)}
    if recipe.float16 and loaded.info.device.startswith("cuda"):
        options |= {"fp16": True, "bf16": False}
    return options


def _held_out(method: Method, request: DataRequest, source: DataSource, known: frozenset[int]) -> MethodData:
    """The rows that are not trained on; whatever is said about them says that it is about them."""
    try:
        return method.read(replace(request, source=source, split=None, known=known, held_out=True))
    except DataError as err:
        raise type(err)(f"{_HELD_OUT}{err.message}", hint=err.hint) from err


def describe(plan: TrainPlan, trained: Trainable) -> TrainStarted:
    """What is about to be trained."""
    eval_rows = plan.eval_data.report.rows if plan.eval_data is not None else 0
    trainable = count_parameters(trained.model)
    return TrainStarted(
        name=trained.name,
        total_steps=plan.total_steps,
        epochs=plan.total_steps * plan.batch_size / len(plan.data.dataset),
        batch_size=plan.batch_size,
        trainable_parameters=trainable,
        all_parameters=trained.loaded.info.parameters + (0 if plan.full else trainable),
        data=replace(plan.data.report, eval_rows=eval_rows),
        settings=_settings(plan, trained),
        output_dir=str(plan.output_dir),
        method=plan.config.method,
        full=plan.full,
    )


_SHOWN = ("learning_rate", "lr_scheduler_type", "warmup_steps", "max_length", "optim", "seed")


def _settings(plan: TrainPlan, trained: Trainable) -> dict[str, str]:
    """What takes effect: the settings that matter, and whatever else the user set."""
    args = plan.args
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    shown = {
        "method": plan.config.method,
        "recipe": plan.config.recipe,
        "continues": str(trained.continued).lower(),
        "precision": precision,
    }
    known = {f.name for f in fields(args)}
    for key in dict.fromkeys((*_SHOWN, *plan.method.shown, *plan.config.options)):
        if key in known:
            shown[key] = plain_setting(getattr(args, key))
    return shown | trained.settings()
