"""What training says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, Union

from llmmagic.core.events.chat import FinishReason
from llmmagic.core.events.common import Cancelled, Notice
from llmmagic.core.events.data import DataInspected, DataReport, PrepareProgress

TrainEndReason = Literal["completed", "cancelled"]


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """What a training run will take up, estimated before its first step.

    Attributes:
        device: Where: ``"cpu"``, ``"cuda:0"``.
        weights_bytes: The model's weights; they are there already.
        adapter_bytes: The weights that are trained; they are there already.
        gradient_bytes: Their gradients.
        optimizer_bytes: What the optimiser keeps of each of them.
        activation_bytes: What the forward pass leaves for the backward pass, at the longest batch.
        free_bytes: What is free on the device.
        rows: Rows at once.
        row_tokens: Tokens of the longest.
    """

    device: str
    weights_bytes: int
    adapter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    free_bytes: int
    rows: int
    row_tokens: int

    @property
    def needed_bytes(self) -> int:
        """What is not there yet."""
        return self.gradient_bytes + self.optimizer_bytes + self.activation_bytes

    @property
    def fits(self) -> bool:
        """Whether that is free."""
        return self.needed_bytes <= self.free_bytes


@dataclass(frozen=True, slots=True)
class TrainStarted:
    """The first step is about to run.

    Attributes:
        name: Name of the adapter that is trained.
        total_steps: Optimizer steps to come.
        epochs: Passes over the data that these steps make.
        batch_size: Rows per optimizer step: per device, times accumulation, times processes.
        trainable_parameters: Weights that change.
        all_parameters: Weights in total.
        data: What is trained on.
        settings: Every setting that matters, as it takes effect: ``{"lora_r": "16", ...}``.
        output_dir: Where checkpoints and the adapter go.
        memory: What it will take up, where that can be told before.
        method: ``"sft"``, ``"pretrain"``, ``"dpo"``, ``"kto"`` or ``"grpo"``.
        full: All weights are trained, not those of an adapter.
    """

    name: str
    total_steps: int
    epochs: float
    batch_size: int
    trainable_parameters: int
    all_parameters: int
    data: DataReport
    settings: dict[str, str]
    output_dir: str
    method: str = "sft"
    full: bool = False
    memory: MemoryEstimate | None = None


@dataclass(frozen=True, slots=True)
class TrainStep:
    """One optimizer step is done.

    Attributes:
        step: Steps done, counted from 1.
        total_steps: Steps in total.
        epoch: Passes over the data so far.
        loss: Mean loss of this step, per trained token; ``None`` on a step that was not logged.
        learning_rate: The one this step used.
        grad_norm: Before clipping; ``None`` when not known.
        tokens_per_s: Non-padding tokens per second since the start.
        memory_bytes: Device memory in use (CUDA), else the resident memory of the process.
        elapsed_s: Since the first step began.
        eta_s: Until the last step, by the speed so far.
        metrics: What the method measures besides the loss: ``margin``, ``accuracy``, ``kl``, ``reward``, ...
    """

    step: int
    total_steps: int
    epoch: float
    loss: float | None
    learning_rate: float
    grad_norm: float | None
    tokens_per_s: float
    memory_bytes: int
    elapsed_s: float
    eta_s: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainSample:
    """What the model answers to a prompt at this point of its training.

    Attributes:
        step: After how many optimizer steps; 0 is the model before training.
        prompt: The question; of a conversation the last one.
        text: The answer, greedy.
        finish_reason: Why it ended; ``length`` when it was cut short.
    """

    step: int
    prompt: str
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class TrainEval:
    """An evaluation on held-out rows.

    Attributes:
        step: After how many optimizer steps; 0 is the model before training.
        loss: Mean loss per trained token; of preference methods per row, of ``grpo`` minus the mean reward.
        perplexity: ``exp(loss)``; ``None`` for methods whose loss is not one of tokens.
        rows: How many rows it was taken on.
        metrics: What the method measures besides: ``margin``, ``accuracy``, ``reward``, ...
    """

    step: int
    loss: float
    perplexity: float | None
    rows: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainFinished:
    """Training is over and the session chats with the adapter on.

    Attributes:
        name: Name of the adapter.
        reason: ``cancelled`` when it was stopped: the adapter is as far as it got.
        steps: Optimizer steps done.
        total_steps: Optimizer steps that were planned.
        first_loss: Of the first logged step; ``None`` when no step was done.
        last_loss: Of the last logged step.
        eval_loss_before: Held-out loss before training; ``None`` without evaluation data.
        eval_loss_after: Held-out loss after it.
        tokens_per_s: Non-padding tokens per second, over the whole run.
        duration_s: Wall time of the steps.
        peak_memory_bytes: The most memory that was in use.
        adapter_dir: Where the adapter is saved.
    """

    name: str
    reason: TrainEndReason
    steps: int
    total_steps: int
    first_loss: float | None
    last_loss: float | None
    eval_loss_before: float | None
    eval_loss_after: float | None
    tokens_per_s: float
    duration_s: float
    peak_memory_bytes: int
    adapter_dir: str


TrainEvent: TypeAlias = Union[
    Notice, Cancelled, PrepareProgress, DataInspected, TrainStarted, TrainStep, TrainEval, TrainSample, TrainFinished
]
