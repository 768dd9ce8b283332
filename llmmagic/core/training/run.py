"""`train`: from a source of rows to an adapter that the session chats with."""

from __future__ import annotations

import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transformers import set_seed

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import ConfigError, LLMMagicError, StorageError, TrainingError
from llmmagic.core.events import MemoryEstimate, Notice, TrainEval, TrainFinished, TrainStarted
from llmmagic.core.models.memory import free_memory_bytes, release_memory
from llmmagic.core.models.tokenizer import first_line
from llmmagic.core.operation import CancelledOperation, CancelToken
from llmmagic.core.training.adapter import attach
from llmmagic.core.training.census import MEMORY
from llmmagic.core.training.full import take_all
from llmmagic.core.training.guard import is_out_of_memory, lent_model
from llmmagic.core.training.memory import Shape, StepMemory, check_memory
from llmmagic.core.training.methods.base import Emit, Figures, Method
from llmmagic.core.training.plan import TrainPlan, describe, plan_training
from llmmagic.core.training.prepared import TokenizedCache
from llmmagic.core.training.samples import Samples
from llmmagic.core.training.sources import DataSource
from llmmagic.core.training.trainable import Trainable
from llmmagic.core.training.trainer import Progress, Wiring

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel


_MEMORY_HINT = "Lower max_length, turn gradient_checkpointing on, or load the model in nf4."


def train(
    loaded: LoadedModel,
    source: DataSource,
    config: TrainConfig,
    *,
    eval_source: DataSource | None = None,
    dry_run: bool = False,
    cache: TokenizedCache | None = None,
    views: int = 3,
    emit: Emit,
    cancel: CancelToken,
) -> TrainFinished | TrainStarted:
    """Fine-tune the session's model with LoRA.

    Everything that can be known to fail is found before the first step. After an error the model is as it was before;
    after a cancel the adapter is as far as it got.

    Args:
        loaded: The session's model; has the adapter on when this returns.
        source: Rows to train on.
        config: Name of the adapter, recipe, settings.
        eval_source: Held-out rows: their loss is taken before and after, and during training if ``eval_steps`` is set.
        dry_run: Stop before the first step; the model stays as it is.
        cache: Rows that were tokenised before, in an inspection or another run.
        views: How many rows the report of a dry run shows token by token.
        emit: Gets every `TrainEvent` but the last.
        cancel: A request stops after the current step, a forced one inside it.

    Returns:
        How it went; for a dry run what would be trained.

    Raises:
        ConfigError: A setting that is unknown or not allowed.
        DataError: Data that cannot be read, or rows that cannot be used.
        TrainingError: Training failed.
        StorageError: The adapter cannot be saved.
        CancelledOperation: It was cancelled before the first step was done; the model is as it was before.
    """
    plan = plan_training(loaded, source, config, eval_source, emit, cancel, cache=cache, views=views if dry_run else 0)
    with lent_model(loaded):
        set_seed(plan.args.seed)  # the adapter starts from random weights
        adapter = _take(plan, loaded)
        try:
            started = replace(describe(plan, adapter), memory=_memory(plan, adapter))
            if dry_run:
                adapter.rollback()
                return started
            emit(started)
            _set_aside(plan, emit)
            finished = _run(plan, adapter, emit, cancel)
        except BaseException:  # whatever it is, it goes on up: the model must not be left half-changed
            adapter.rollback()
            raise
        adapter.commit()
    release_memory()
    finished = replace(finished, adapter_dir=str(plan.output_dir))
    if not plan.is_main:
        return finished
    # Only now: a full disk must not cost what was learnt.
    _save(adapter, plan, emit)
    if finished.reason == "completed" and plan.args.save_strategy == "no":
        plan.checkpoints.clear()  # they were for the case that it is not completed
    return finished


def _take(plan: TrainPlan, loaded: LoadedModel) -> Trainable:
    """The weights that the run changes, made trainable."""
    config = plan.config
    if not plan.full:
        return attach(loaded, config.name, plan.lora_to_attach(loaded), config.lora)
    if plan.method.needs_adapter:
        raise ConfigError(
            f"The method {config.method} trains an adapter: with it off, the model is the reference it learns against.",
            hint="Leave out peft: none, or use the method sft or pretrain.",
        )
    if config.lora:
        raise ConfigError("With peft: none there is no adapter that lora: could be about.")
    return take_all(loaded, config.name, config.model_config)


def _memory(plan: TrainPlan, adapter: Trainable) -> MemoryEstimate | None:
    """What a step will take up.

    Raises:
        TrainingError: More than is free, and the user has not allowed it.
    """
    args, sequences = plan.args, plan.method.sequences
    if not sequences:
        return None
    packed = getattr(args, "packing", False)
    shape = Shape(
        rows=args.per_device_train_batch_size * sequences,
        row_tokens=(args.max_length if packed else None) or plan.data.report.longest_tokens,
        checkpointing=bool(getattr(args, "activation_checkpointing", getattr(args, "gradient_checkpointing", False))),
    )
    info = adapter.loaded.info
    memory = StepMemory(adapter.model, optim=str(args.optim), device=info.device, weights_bytes=info.memory_bytes)
    estimate = memory.estimate(shape, free_memory_bytes(info.device))
    # Several processes may share the weights between them: what each of them needs is not known here.
    if args.world_size == 1 and MEMORY not in plan.config.allow:
        check_memory(estimate, memory, shape)
    return estimate


def _set_aside(plan: TrainPlan, emit: Emit) -> None:
    """Make room for a new run without losing what an earlier one of that name has left."""
    if plan.resume_from is not None or not plan.is_main:
        return
    try:
        aside = plan.checkpoints.set_aside()
    except OSError as err:
        raise StorageError(f"{plan.output_dir} cannot be written: {err.strerror or err}.") from err
    if aside is not None:
        text = f"An earlier run of {plan.config.name!r} was stopped and is not resumed; its checkpoint is now {aside}."
        emit(Notice(text, level="warning", topic="superseded"))


def _run(plan: TrainPlan, adapter: Trainable, emit: Emit, cancel: CancelToken) -> TrainFinished:
    start = time.monotonic()
    samples = Samples(adapter.loaded, plan.config, plan.total_steps, emit=emit, cancel=cancel, main=plan.is_main)
    before = _held_out(plan, adapter, 0, emit, cancel)
    samples.answer(0)
    cancel.check()
    progress = Progress(emit, cancel, checkpoint_s=plan.config.checkpoint_minutes * 60, metrics=plan.method.metrics)
    completed, evals = _train(plan, adapter, progress, samples, emit, cancel)
    if not progress.steps:
        raise CancelledOperation
    after = None
    if completed:  # the last step may have been evaluated already
        after = evals.get(progress.steps) or _held_out(plan, adapter, progress.steps, emit, CancelToken())
        samples.answer(progress.steps)
    return TrainFinished(
        name=adapter.name,
        reason="completed" if completed else "cancelled",
        steps=progress.steps,
        total_steps=plan.total_steps,
        first_loss=progress.losses[0],
        last_loss=progress.losses[1],
        eval_loss_before=None if before is None else before.loss,
        eval_loss_after=None if after is None else after.loss,
        tokens_per_s=progress.tokens_per_s,
        duration_s=time.monotonic() - start,
        peak_memory_bytes=progress.peak_memory_bytes,
        adapter_dir="",
    )


def _train(
    plan: TrainPlan, adapter: Trainable, progress: Progress, samples: Samples, emit: Emit, cancel: CancelToken
) -> tuple[bool, dict[int, Figures]]:
    """Train, with ever smaller batches if memory runs out.

    Returns:
        Whether it ran to the end, and the figures of held-out rows by step.
    """
    args, method, checkpoint = plan.args, plan.method, plan.resume_from
    evals: dict[int, Figures] = {}

    def measure(step: int) -> dict[str, float]:
        figures = _held_out(plan, adapter, step, emit, cancel)
        if figures is None:
            return {}
        evals[step] = figures
        return {"loss": figures.loss, **figures.metrics}

    wiring = Wiring(plan.checkpoints, progress, measure, emit, cancel, saves_all=plan.full)
    while True:
        # A model lent anew to each trainer: TRL would patch what it has patched before.
        with lent_model(adapter.loaded):
            trainer = method.trainer()(
                adapter.model,
                args,
                plan.data.dataset,
                plan.eval_data.dataset if plan.eval_data is not None else None,
                adapter.loaded.tokenizer,
                wiring=wiring,
                **method.trainer_settings(plan.config),
            )
            samples.attach(trainer, progress)
            try:
                return trainer.run(plan.total_steps, checkpoint), evals
            except (RuntimeError, MemoryError, ValueError, OSError) as err:
                if isinstance(err, LLMMagicError):
                    raise
                if not is_out_of_memory(err):
                    raise TrainingError(f"Training failed: {first_line(err)}.") from err
                if not _shrink_batch(args, method):
                    rows = "one row" if method.least_batch(args) == 1 else f"{args.per_device_train_batch_size} rows"
                    raise TrainingError(f"Memory ran out with {rows} per batch.", hint=_MEMORY_HINT) from err
                traceback.clear_frames(err.__traceback__)  # its frames hold the tensors that did not fit
            if progress.steps:
                trainer.save_now()
                checkpoint = plan.checkpoints.last()
        del trainer
        release_memory()
        rows_at_once, times = args.per_device_train_batch_size, args.gradient_accumulation_steps
        text = (
            f"Memory ran out: training goes on from step {progress.steps} with batches of {rows_at_once}, {times} per "
            f"step (still {plan.batch_size} rows)."
        )
        emit(Notice(text, level="warning", topic="batch-halved"))


def _shrink_batch(args: Any, method: Method) -> bool:
    """Fewer rows at a time, more times per step; the product stays.

    Returns:
        Whether there were fewer to be had.
    """
    rows = args.per_device_train_batch_size
    factors = [n for n in range(2, rows + 1) if rows % n == 0 and rows // n >= method.least_batch(args)]
    if not factors:
        return False
    method.shrink(args, factors[0])
    return True


def _held_out(plan: TrainPlan, adapter: Trainable, step: int, emit: Emit, cancel: CancelToken) -> Figures | None:
    if plan.eval_data is None:
        return None
    figures = plan.method.measure(adapter.loaded, plan.eval_data, plan.args, plan.config, emit=emit, cancel=cancel)
    emit(TrainEval(step, figures.loss, figures.perplexity, figures.rows, figures.metrics))
    return figures


def _save(adapter: Trainable, plan: TrainPlan, emit: Emit) -> None:
    what = "The model" if plan.full else "The adapter"
    hint = f"{what} {adapter.name!r} is trained and the session has it: save it elsewhere."
    try:
        adapter.save(plan.output_dir, emit, resumed=plan.resume_from is not None)
    except StorageError as err:
        raise StorageError(err.message, hint=hint) from err
    except OSError as err:
        raise StorageError(f"{plan.output_dir} cannot be written: {err.strerror or err}.", hint=hint) from err
