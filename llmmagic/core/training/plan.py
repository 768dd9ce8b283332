"""Everything that can be known before the first step: settings, data, number of steps. Touches no weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import LoraConfig
from trl import SFTConfig

from llmmagic.core.config import TrainConfig, data_dir
from llmmagic.core.errors import DataError, TrainingError
from llmmagic.core.events import Notice, TrainEvent, TrainStarted
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.adapter import TrainableAdapter, count_parameters
from llmmagic.core.training.census import check_allowed
from llmmagic.core.training.checkpoints import Checkpoints
from llmmagic.core.training.dataset import TokenizedData, pack
from llmmagic.core.training.examples import ExampleMaker, LossOn, make_examples_like_chat
from llmmagic.core.training.inspection import report_on
from llmmagic.core.training.options import Compute, make_lora_config, make_sft_config
from llmmagic.core.training.prepared import Prepared, TokenizedCache, prepare_rows
from llmmagic.core.training.recipes import RECIPES, RecipeSettings
from llmmagic.core.training.sources import DataSource

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel

Emit = Callable[[TrainEvent], None]

_HELD_OUT = "Held-out data: "
_KEPT = 2  # checkpoints: the last, and one before it


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """A run that has not begun.

    Attributes:
        config: What was asked for.
        args: Settings of the trainer.
        lora: Settings of a new adapter.
        data: What is trained on.
        eval_data: What is held out, if anything.
        output_dir: Where the adapter goes.
        total_steps: Optimizer steps.
        checkpoints: Where they are written.
        resume_from: The checkpoint to go on from, if that was asked for.
    """

    config: TrainConfig
    args: SFTConfig
    lora: LoraConfig
    data: TokenizedData
    eval_data: TokenizedData | None
    output_dir: Path
    total_steps: int
    checkpoints: Checkpoints
    resume_from: Path | None

    @property
    def batch_size(self) -> int:
        """Rows per optimizer step, over all processes."""
        args = self.args
        per_step: int = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return per_step

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
    check_allowed(config.allow)
    recipe = RECIPES[config.recipe]
    args = make_sft_config(
        config.options, _base_options(recipe, loaded), Compute(loaded.info.device, loaded.info.dtype)
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
    max_length = min(args.max_length or loaded.info.context_window, loaded.info.context_window)
    loss_on: LossOn = "all" if args.completion_only_loss is False else "answers"
    maker = make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=max_length, loss_on=loss_on)
    prepared = prepare_rows(
        source,
        maker,
        split=config.split,
        columns=config.columns,
        allow=config.allow,
        cache=cache,
        emit=emit,
        cancel=cancel,
    )
    # Before anything is refused: the report shows what is wrong.
    emit(report_on(loaded, prepared, max_length=max_length, loss_on=loss_on, views=views))
    data = _sound(prepared, emit)
    if args.packing:
        data = pack(data, max_length, args.packing_strategy)
    eval_data = None
    if eval_source is not None:
        # On the answers whatever is trained on: only so are recipes comparable.
        maker = make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=max_length)
        known = data.census.fingerprints
        eval_data = _held_out(eval_source, config, maker, known, cache, emit, cancel)
    elif args.eval_strategy != "no":
        raise TrainingError("eval_steps is set, but there is nothing to evaluate on.", hint="Give evaluation data.")
    named = "output_dir" in config.options or "output_dir" in recipe.options
    output_dir = Path(args.output_dir) if named else data_dir() / "adapters" / config.name
    args.output_dir = str(output_dir)
    total_steps = _total_steps(args, len(data.dataset))
    checkpoints = Checkpoints(
        output_dir, args.save_total_limit or _KEPT, {"data": data.census.digest, "seed": args.seed, **_run_of(args)}
    )
    resume_from = checkpoints.require() if config.resume else None
    return TrainPlan(config, args, lora, data, eval_data, output_dir, total_steps, checkpoints, resume_from)


def _run_of(args: SFTConfig) -> dict[str, int]:
    """What makes steps of one run the same as those of another."""
    return {"batch size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size}


def _base_options(recipe: RecipeSettings, loaded: LoadedModel) -> dict[str, Any]:
    options = dict(recipe.options)
    if recipe.float16 and loaded.info.device.startswith("cuda"):
        options |= {"fp16": True, "bf16": False}
    return options


def _held_out(
    source: DataSource,
    config: TrainConfig,
    maker: ExampleMaker,
    known: frozenset[int],
    cache: TokenizedCache | None,
    emit: Emit,
    cancel: CancelToken,
) -> TokenizedData:
    """The rows that are not trained on; whatever is said about them says that it is about them."""
    try:
        prepared = prepare_rows(
            source,
            maker,
            columns=config.columns,
            allow=config.allow,
            known=known,
            cache=cache,
            emit=emit,
            cancel=cancel,
            detail="tokenize held-out rows",
        )
        return _sound(prepared, emit, _HELD_OUT)
    except DataError as err:
        raise type(err)(f"{_HELD_OUT}{err.message}", hint=err.hint) from err


def _sound(prepared: Prepared, emit: Emit, about: str = "") -> TokenizedData:
    """Refuse what is known to fail, and say what is worth knowing."""
    data = prepared.data
    data.require_sound()
    for finding in data.findings:
        emit(Notice(f"{about}{finding.text}", level="warning", topic=finding.name))
    return data


def _total_steps(args: SFTConfig, examples: int) -> int:
    """Optimizer steps, counted as the trainer counts them."""
    if args.max_steps > 0:
        planned: int = args.max_steps
        return planned
    per_batch = args.per_device_train_batch_size * args.world_size
    batches = examples // per_batch if args.dataloader_drop_last else math.ceil(examples / per_batch)
    per_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    total: int = math.ceil(args.num_train_epochs * per_epoch)
    return total


def describe(plan: TrainPlan, adapter: TrainableAdapter) -> TrainStarted:
    """What is about to be trained."""
    eval_rows = plan.eval_data.report.rows if plan.eval_data is not None else 0
    return TrainStarted(
        name=adapter.name,
        total_steps=plan.total_steps,
        epochs=plan.total_steps * plan.batch_size / len(plan.data.dataset),
        batch_size=plan.batch_size,
        trainable_parameters=count_parameters(adapter.model),
        all_parameters=adapter.loaded.info.parameters + count_parameters(adapter.model),
        data=replace(plan.data.report, eval_rows=eval_rows),
        settings=_settings(plan, adapter),
        output_dir=str(plan.output_dir),
    )


_SHOWN = ("learning_rate", "lr_scheduler_type", "warmup_steps", "max_length", "completion_only_loss", "optim", "seed")
_SHOWN_LORA = ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "init_lora_weights")


def _settings(plan: TrainPlan, adapter: TrainableAdapter) -> dict[str, str]:
    """What takes effect: the settings that matter, and whatever else the user set."""
    args, lora = plan.args, adapter.model.peft_config[adapter.name]
    precision = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    shown = {"recipe": plan.config.recipe, "continues": str(adapter.continued).lower(), "precision": precision}
    known = {f.name for f in fields(SFTConfig)}
    for key in dict.fromkeys((*_SHOWN, *(key for key in plan.config.options if key in known))):
        shown[key] = _plain(getattr(args, key))
    for key in _SHOWN_LORA:
        shown["lora_r" if key == "r" else key] = _plain(getattr(lora, key))
    # PEFT lists every layer: what kinds of layers they are says as much.
    shown["target_modules"] = ", ".join(sorted({name.rpartition(".")[2] for name in lora.target_modules}))
    return shown


def _plain(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return ", ".join(sorted(map(str, value)))
    return str(getattr(value, "value", value))
