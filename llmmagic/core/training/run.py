"""`train` and `evaluate`: from a source of rows to an adapter that the session chats with."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from transformers import set_seed

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import LLMMagicError, StorageError, TrainingError
from llmmagic.core.events import EvalEvent, Notice, TrainEval, TrainFinished, TrainStarted
from llmmagic.core.models.adapters import save_adapter
from llmmagic.core.models.memory import release_memory
from llmmagic.core.models.tokenizer import first_line
from llmmagic.core.operation import CancelledOperation, CancelToken
from llmmagic.core.training.adapter import TrainableAdapter, attach
from llmmagic.core.training.checkpoints import set_aside_adapter
from llmmagic.core.training.dataset import tokenize_table
from llmmagic.core.training.evaluate import HeldOut, held_out_loss
from llmmagic.core.training.examples import make_examples_like_chat
from llmmagic.core.training.formats import detect_layout
from llmmagic.core.training.guard import is_out_of_memory, lent_model
from llmmagic.core.training.plan import Emit, TrainPlan, describe, plan_training
from llmmagic.core.training.prepared import TokenizedCache
from llmmagic.core.training.sources import DataSource, read_table
from llmmagic.core.training.trainer import Progress, Trainer

if TYPE_CHECKING:
    from trl import SFTConfig

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
        emit: Gets `Notice`, `PrepareProgress`, `DataInspected`, `TrainStarted`, `TrainStep` and `TrainEval`.
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
    plan = plan_training(
        loaded, source, config, eval_source, emit, cancel, cache=cache, views=views if dry_run else 0
    )
    with lent_model(loaded):
        set_seed(plan.args.seed)  # the adapter starts from random weights
        adapter = attach(loaded, config.name, plan.lora_to_attach(loaded), config.lora)
        started = describe(plan, adapter)
        if dry_run:
            adapter.rollback()
            return started
        emit(started)
        try:
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


def evaluate(
    loaded: LoadedModel,
    source: DataSource,
    *,
    limit: int | None = None,
    emit: Callable[[EvalEvent], None],
    cancel: CancelToken,
) -> HeldOut:
    """The loss of the session's model, adapter on, on rows that it was not trained on.

    Args:
        loaded: The session's model.
        source: The rows.
        limit: Only so many of them, from the beginning.
        emit: Gets `PrepareProgress`.
        cancel: Checked between batches.

    Returns:
        Loss, perplexity and token accuracy, on the answers only.

    Raises:
        DataError: Data that cannot be read, or rows that cannot be used.
        CancelledOperation: It was cancelled.
    """
    maker = make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=loaded.info.context_window)
    table = read_table(source, split=None if limit is None else f"[:{limit}]")
    data = tokenize_table(table, detect_layout(table), maker, emit=emit, cancel=cancel)
    data.require_sound()
    return held_out_loss(loaded.model, data.dataset, emit=emit, cancel=cancel)


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


def _run(plan: TrainPlan, adapter: TrainableAdapter, emit: Emit, cancel: CancelToken) -> TrainFinished:
    start = time.monotonic()
    before = _held_out(plan, adapter, 0, emit, cancel)
    cancel.check()
    progress = Progress(emit, cancel, checkpoint_s=plan.config.checkpoint_minutes * 60)
    completed, evals = _train(plan, adapter, progress, emit, cancel)
    if not progress.steps:
        raise CancelledOperation
    after = None
    if completed:  # the last step may have been evaluated already
        after = evals.get(progress.steps) or _held_out(plan, adapter, progress.steps, emit, CancelToken())
    return TrainFinished(
        name=adapter.name,
        reason="completed" if completed else "cancelled",
        steps=progress.steps,
        total_steps=plan.total_steps,
        first_loss=progress.losses[0],
        last_loss=progress.losses[1],
        eval_loss_before=before,
        eval_loss_after=after,
        tokens_per_s=progress.tokens_per_s,
        duration_s=time.monotonic() - start,
        peak_memory_bytes=progress.peak_memory_bytes,
        adapter_dir="",
    )


def _train(
    plan: TrainPlan, adapter: TrainableAdapter, progress: Progress, emit: Emit, cancel: CancelToken
) -> tuple[bool, dict[int, float]]:
    """Train, with ever smaller batches if memory runs out.

    Returns:
        Whether it ran to the end, and the held-out loss by step.
    """
    args, checkpoint = plan.args, plan.resume_from
    while True:
        # A model lent anew to each trainer: TRL would patch what it has patched before.
        with lent_model(adapter.loaded):
            trainer = Trainer(
                adapter.model,
                args,
                plan.data.dataset,
                plan.eval_data.dataset if plan.eval_data is not None else None,
                adapter.loaded.tokenizer,
                checkpoints=plan.checkpoints,
                progress=progress,
                emit=emit,
                cancel=cancel,
            )
            try:
                return trainer.run(plan.total_steps, checkpoint), trainer.eval_losses
            except (RuntimeError, MemoryError, ValueError, OSError) as err:
                if isinstance(err, LLMMagicError):
                    raise
                if not is_out_of_memory(err):
                    raise TrainingError(f"Training failed: {first_line(err)}.") from err
                if not _shrink_batch(args):
                    raise TrainingError("Memory ran out with one row per batch.", hint=_MEMORY_HINT) from err
                traceback.clear_frames(err.__traceback__)  # its frames hold the tensors that did not fit
            if progress.steps:
                trainer.save_now()
                checkpoint = plan.checkpoints.last()
        del trainer
        release_memory()
        rows, times = args.per_device_train_batch_size, args.gradient_accumulation_steps
        text = (
            f"Memory ran out: training goes on from step {progress.steps} with batches of {rows}, {times} per step "
            f"(still {plan.batch_size} rows)."
        )
        emit(Notice(text, level="warning", topic="batch-halved"))


def _shrink_batch(args: SFTConfig) -> bool:
    """Fewer rows at a time, more times per step; the product stays.

    Returns:
        Whether there were fewer to be had.
    """
    rows = args.per_device_train_batch_size
    if rows == 1:
        return False
    factor = next(n for n in range(2, rows + 1) if rows % n == 0)
    args.per_device_train_batch_size = rows // factor
    args.gradient_accumulation_steps *= factor
    return True


def _held_out(plan: TrainPlan, adapter: TrainableAdapter, step: int, emit: Emit, cancel: CancelToken) -> float | None:
    if plan.eval_data is None:
        return None
    figures = held_out_loss(adapter.model, plan.eval_data.dataset, emit=emit, cancel=cancel)
    emit(TrainEval(step, figures.loss, figures.perplexity, figures.rows))
    return figures.loss


def _save(adapter: TrainableAdapter, plan: TrainPlan, emit: Emit) -> None:
    hint = f"The adapter {adapter.name!r} is trained and the session has it on: save it elsewhere."
    try:
        if not adapter.continued and plan.resume_from is None:
            aside = set_aside_adapter(plan.output_dir)
            if aside is not None:
                emit(Notice(f"The adapter that an earlier run saved here is kept in {aside}.", topic="superseded"))
        saved = save_adapter(adapter.loaded, plan.output_dir, name=adapter.name)
    except StorageError as err:
        raise StorageError(err.message, hint=hint) from err
    except OSError as err:
        raise StorageError(f"{plan.output_dir} cannot be written: {err.strerror or err}.", hint=hint) from err
    adapter.loaded.sources[adapter.name] = saved
