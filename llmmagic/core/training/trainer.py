"""TRL's trainer, made to report and to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainerCallback
from typing_extensions import override

from llmmagic.core.errors import TrainingError
from llmmagic.core.events import Notice, TrainEvent, TrainStep
from llmmagic.core.models.memory import device_memory_bytes, process_memory_bytes
from llmmagic.core.models.progress import no_library_bars
from llmmagic.core.operation import CancelledOperation, CancelToken
from llmmagic.core.training.checkpoints import Checkpoints, step_of
from llmmagic.core.training.guard import stops_inside

if TYPE_CHECKING:
    import datasets
    from transformers import PreTrainedTokenizerBase, TrainerControl, TrainerState


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a trainer is connected to.

    Attributes:
        checkpoints: Where they are written.
        progress: Tells the steps; shared by the trainers of one run.
        measure: Takes the figures of the held-out rows after so many steps and tells them; returns what is logged.
        emit: Gets a `Notice` when a checkpoint cannot be written.
        cancel: A request stops after the current step, a forced one inside it.
        saves_all: All weights are trained and saved, not those of an adapter.
    """

    checkpoints: Checkpoints
    progress: Progress
    measure: Callable[[int], dict[str, float]]
    emit: Callable[[TrainEvent], None]
    cancel: CancelToken
    saves_all: bool = False


class Reporting(transformers.Trainer):  # type: ignore[misc] # transformers is not typed
    """What all our trainers have in common, put before one of TRL's: they tell events, and stop when asked to.

    Attributes:
        progress: What was told so far.
    """

    def __init__(
        self,
        model: Any,
        args: Any,
        train_data: datasets.Dataset,
        eval_data: datasets.Dataset | None,
        tokenizer: PreTrainedTokenizerBase,
        *,
        wiring: Wiring,
        **more: Any,
    ) -> None:
        """Set it up.

        Args:
            model: With trainable weights in float32.
            args: The method's config; TRL is told in it to leave the data alone.
            train_data: The columns that the method's collator reads.
            eval_data: The same; evaluated on when ``args`` says so.
            tokenizer: Gives the padding token; saved beside checkpoints.
            wiring: What the run is connected to.
            **more: What the method's own trainer takes besides.
        """
        self._wiring = wiring
        self.progress = wiring.progress
        weights = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
        with self._given_to_trl(model) as given:
            super().__init__(
                **given,
                **more,
                args=args,
                train_dataset=train_data,
                eval_dataset=eval_data,
                processing_class=tokenizer,
                callbacks=[self.progress],
            )
        # TRL has cast the adapter of a quantised model to bfloat16: back to the float32 it had, no bit lost.
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.data = weights[name]
        self.remove_callback(PrinterCallback)

    @contextmanager
    def _given_to_trl(self, model: Any) -> Iterator[dict[str, Any]]:
        """What TRL's trainer is handed for a model, while it sets itself up."""
        yield {"model": model}

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """TRL would write a page about the model, with links to its own, beside each checkpoint."""

    @override
    def _get_output_dir(self, trial: Any) -> str:
        """Where ``_save_checkpoint`` writes: not where it can be seen before it is complete."""
        return str(self._wiring.checkpoints.begin(self.state.global_step))

    @override
    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        try:
            with self.progress.paused():
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    self._publish(step)
                self.accelerator.wait_for_everyone()
        except (OSError, RuntimeError, SafetensorError) as err:  # torch and safetensors have their own for a full disk
            text = f"The checkpoint at step {step} could not be written: {str(err).strip()[:200]}. Training goes on."
            self._wiring.emit(Notice(text, level="warning", topic="checkpoint"))

    def _publish(self, step: int) -> None:
        staged = self._wiring.checkpoints.begin(step)
        best = self.state.best_model_checkpoint
        if best is not None and Path(best).parent == staged:
            self.state.best_model_checkpoint = str(self._wiring.checkpoints.folder / Path(best).name)
            self.state.save_to_json(str(staged / f"checkpoint-{step}" / "trainer_state.json"))
        self._wiring.checkpoints.publish(step)
        self._wiring.checkpoints.prune(self.state.best_model_checkpoint)

    @override
    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if self._wiring.saves_all:
            with no_library_bars():
                model.save_pretrained(output_dir, state_dict=state_dict, is_main_process=self.args.should_save)
            return
        # Only the adapter that is trained; and PEFT is not to ask the Hub whether the vocabulary grew.
        model.save_pretrained(
            output_dir,
            state_dict=state_dict,
            selected_adapters=[model.active_adapter],
            save_embedding_layers=False,
            is_main_process=self.args.should_save,
        )

    def _send_telemetry(self) -> None:
        """TRL reports each run to the Hub. What a user trains on their machine is nobody's business."""

    @override
    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.progress.tokens += self._tokens_of(inputs) * self.args.world_size  # the others have about as many
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        return loss

    def _tokens_of(self, inputs: dict[str, Any]) -> int:
        """Tokens of a batch, padding not counted."""
        return int(inputs["attention_mask"].sum() if "attention_mask" in inputs else inputs["input_ids"].numel())

    @override
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        with self.progress.paused():
            figures = self._wiring.measure(self.state.global_step)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_now(self) -> None:
        """Write a checkpoint of the last whole step, also after an error in the middle of the next."""
        self._save_checkpoint(self.model, None)

    def run(self, total_steps: int, checkpoint: Path | None = None) -> bool:
        """Train.

        Args:
            total_steps: How many steps the whole run has.
            checkpoint: Go on from there.

        Returns:
            Whether it ran to the end; otherwise it was cancelled and the weights are those of the last whole step.

        Raises:
            TrainingError: The loss is no number any more.
        """
        if checkpoint is not None and step_of(checkpoint) >= total_steps:
            # It died between its last step and the saving of the adapter. Transformers would train a step too many.
            self._load_from_checkpoint(str(checkpoint))
            self.progress.steps = step_of(checkpoint)
            return True
        with stops_inside(self.model, self._wiring.cancel):
            try:
                self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            except CancelledOperation:
                return False
        return bool(self.state.global_step >= self.state.max_steps)


class Progress(TrainerCallback):  # type: ignore[misc] # transformers is not typed
    """Turns what the trainer logs into events.

    Attributes:
        steps: Optimizer steps done in this run.
        tokens: Tokens read, padding not counted.
        losses: First and last logged loss.
        tokens_per_s: Over the whole run.
        elapsed_s: Time in steps; evaluations not counted.
        peak_memory_bytes: The most that was seen in use.
    """

    def __init__(
        self,
        emit: Callable[[TrainEvent], None],
        cancel: CancelToken,
        *,
        checkpoint_s: float,
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        """Set it up.

        Args:
            emit: Gets a `TrainStep` per optimizer step.
            cancel: A request stops after the current step and writes a checkpoint.
            checkpoint_s: How often to write one, in seconds; 0 is only when the trainer's settings say so.
            metrics: What is told of the trainer's log besides the loss: its name there -> its name here.
        """
        self._metrics = dict(metrics or {})
        self._checkpoint_s = checkpoint_s
        self._checkpointed = 0.0
        self._emit = emit
        self._cancel = cancel
        self._start = 0.0
        self._paused_s = 0.0
        self._first_step = 0
        self.steps = 0
        self.tokens = 0
        self.losses: tuple[float | None, float | None] = (None, None)
        self.tokens_per_s = 0.0
        self.elapsed_s = 0.0
        self.peak_memory_bytes = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While something else than steps takes time: it counts neither for the speed nor for the time left."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - start

    @override
    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._checkpointed = time.monotonic()
        self._start = self._checkpointed - self.elapsed_s  # another trainer may have begun this run
        self._paused_s = 0.0
        if not self.steps:
            self._first_step = state.global_step

    @override
    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.steps = state.global_step
        due = self._checkpoint_s > 0 and time.monotonic() - self._checkpointed >= self._checkpoint_s
        stop, due = _agree(args, self._cancel.requested, due)
        if stop:
            control.should_training_stop = True
            control.should_evaluate = False
            control.should_log = control.should_save = True
        elif due:
            control.should_save = True
        if not control.should_log:
            self._tell(state, None, float(kwargs["lr_scheduler"].get_last_lr()[0]), None)

    @override
    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._checkpointed = time.monotonic()

    @override
    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss, grad_norm = float(logs["loss"]), logs.get("grad_norm")
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss is no number any more at step {state.global_step}; the adapter is as it was before.",
                hint="Lower learning_rate, or train in bfloat16 or float32 instead of float16.",
            )
        self.losses = (loss if self.losses[0] is None else self.losses[0], loss)
        metrics = {ours: float(logs[theirs]) for theirs, ours in self._metrics.items() if theirs in logs}
        self._tell(state, loss, float(logs["learning_rate"]), None if grad_norm is None else float(grad_norm), metrics)

    def _tell(
        self,
        state: TrainerState,
        loss: float | None,
        learning_rate: float,
        grad_norm: float | None,
        metrics: dict[str, float] | None = None,
    ) -> None:
        self.elapsed_s = max(time.monotonic() - self._start - self._paused_s, 1e-9)
        self.tokens_per_s = self.tokens / self.elapsed_s
        memory = device_memory_bytes("cuda") if torch.cuda.is_available() else process_memory_bytes()
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        per_step = self.elapsed_s / max(state.global_step - self._first_step, 1)
        self._emit(
            TrainStep(
                step=state.global_step,
                total_steps=state.max_steps,
                epoch=float(state.epoch or 0.0),
                loss=loss,
                learning_rate=learning_rate,
                grad_norm=grad_norm,
                tokens_per_s=self.tokens_per_s,
                memory_bytes=memory,
                elapsed_s=self.elapsed_s,
                eta_s=per_step * (state.max_steps - state.global_step),
                metrics=metrics or {},
            )
        )


def _agree(args: Any, stop: bool, save: bool) -> tuple[bool, bool]:
    """What any process of a run wants, all do: one that stopped alone would leave the others waiting for it."""
    if args.world_size == 1:
        return stop, save
    wishes = torch.tensor([stop, save], dtype=torch.int32, device=args.device)
    torch.distributed.all_reduce(wishes, op=torch.distributed.ReduceOp.MAX)
    return bool(wishes[0]), bool(wishes[1])
