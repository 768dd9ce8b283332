"""What a training method is: how rows become examples, which of TRL's trainers takes them, and what is measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from llmmagic.core.config import MethodName, TrainConfig
from llmmagic.core.events import DataReport, Finding, TrainEvent
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.census import FINDINGS
from llmmagic.core.training.owned import OWNED

if TYPE_CHECKING:
    import datasets

    from llmmagic.core.models.loaded import LoadedModel
    from llmmagic.core.training.prepared import TokenizedCache
    from llmmagic.core.training.sources import DataSource
    from llmmagic.core.training.trainer import Reporting

Emit = Callable[[TrainEvent], None]


class MethodData(Protocol):
    """Rows that a method can train on."""

    @property
    def dataset(self) -> datasets.Dataset:
        """What the trainer reads."""

    @property
    def report(self) -> DataReport:
        """What it is."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with it, errors first."""

    @property
    def digest(self) -> str:
        """Of all that is trained on, in order: a run that resumes must find the same."""

    @property
    def fingerprints(self) -> frozenset[int]:
        """Of all rows, to find them in other data."""


@dataclass(frozen=True, slots=True)
class DataRequest:
    """Rows to be read.

    Attributes:
        source: Where from.
        split: Of it.
        config: Of the run.
        args: The trainer's settings.
        loaded: The model; not changed.
        emit: Gets `Notice`, `PrepareProgress` and `DataInspected`.
        cancel: Checked between rows.
        known: Fingerprints of the training data, if this is held-out data.
        held_out: Whether it is.
        cache: Rows that were tokenised before.
        views: How many rows the report shows token by token.
    """

    source: DataSource
    split: str | None
    config: TrainConfig
    args: Any
    loaded: LoadedModel
    emit: Emit
    cancel: CancelToken
    known: frozenset[int] = frozenset()
    held_out: bool = False
    cache: TokenizedCache | None = None
    views: int = 0

    @property
    def max_length(self) -> int:
        """Most tokens of an example."""
        limit = self.loaded.info.context_window
        if self.config.model_config:  # the new model's limit, which it does not have yet
            limit = int(self.config.model_config.get("max_position_embeddings", limit))
        return min(getattr(self.args, "max_length", None) or limit, limit)

    @property
    def detail(self) -> str:
        """What the progress is called."""
        return "tokenize held-out rows" if self.held_out else "tokenize"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a model makes of held-out rows.

    Attributes:
        loss: Lower is better; what it is depends on the method.
        rows: How many rows it was taken on.
        perplexity: ``exp(loss)`` where the loss is one of tokens.
        metrics: What is measured besides.
    """

    loss: float
    rows: int
    perplexity: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)


class Method(ABC):
    """One way of training."""

    name: ClassVar[MethodName]
    owned: ClassVar[Mapping[str, str]] = OWNED
    """Keys of its config that cannot be set, and why."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    """Values of its config that it cannot do without."""
    metrics: ClassVar[Mapping[str, str]] = {}
    """What is told of the trainer's log besides the loss: its name there -> its name in events."""
    findings: ClassVar[Sequence[str]] = FINDINGS
    """What can be found in its data."""
    needs_adapter: ClassVar[bool] = True
    """The model with the adapter off is the reference that it learns against."""
    sequences: ClassVar[int] = 1
    """What a row of a batch becomes in a forward pass; 0 where that is not known before."""
    shown: ClassVar[Sequence[str]] = ()
    """Settings of its own that matter to a reader."""

    def defaults(self, *, full: bool, fresh: bool) -> Mapping[str, Any]:
        """Settings that differ from the recipe's.

        Args:
            full: All weights are trained.
            fresh: They are random so far.
        """
        return {}

    @abstractmethod
    def read(self, request: DataRequest) -> MethodData:
        """Read and tokenise rows, refuse what is known to fail, and say what is worth knowing.

        Raises:
            DataError: Data that cannot be read, or rows that cannot be used.
            CancelledOperation: It was cancelled.
        """

    @abstractmethod
    def trainer(self) -> type[Reporting]:
        """The trainer's class."""

    def trainer_settings(self, config: TrainConfig) -> Mapping[str, Any]:
        """What the trainer takes besides model, settings and data."""
        return {}

    @abstractmethod
    def measure(
        self, loaded: LoadedModel, data: MethodData, args: Any, config: TrainConfig, *, emit: Emit, cancel: CancelToken
    ) -> Figures:
        """Take the figures of held-out rows, with the weights as they are.

        Raises:
            CancelledOperation: It was cancelled.
        """

    def rows_per_step(self, args: Any) -> int:
        """Rows of data per optimizer step, over all processes."""
        rows: int = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return rows

    def total_steps(self, args: Any, examples: int) -> int:
        """Optimizer steps, counted as the trainer counts them."""
        if args.max_steps > 0:
            planned: int = args.max_steps
            return planned
        total: int = math.ceil(args.num_train_epochs * self.steps_per_epoch(args, examples))
        return total

    def steps_per_epoch(self, args: Any, examples: int) -> int:
        """Optimizer steps that one pass over the data takes."""
        per_batch = int(args.per_device_train_batch_size) * int(args.world_size)
        batches = examples // per_batch if args.dataloader_drop_last else math.ceil(examples / per_batch)
        return max(math.ceil(batches / int(args.gradient_accumulation_steps)), 1)

    def shrink(self, args: Any, factor: int) -> None:
        """Fewer rows at a time, more times per step, after memory ran out."""
        args.per_device_train_batch_size //= factor
        args.gradient_accumulation_steps *= factor

    def least_batch(self, args: Any) -> int:
        """The fewest rows that a batch can have."""
        return 1
