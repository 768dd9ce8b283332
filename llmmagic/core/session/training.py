"""The part of a session that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import LoadConfig, MethodName, TrainConfig, replace_known
from llmmagic.core.errors import ConfigError
from llmmagic.core.events import Cancelled, DataEvent, EvalEvent, Notice, TrainEvent
from llmmagic.core.operation import CancelToken, Operation
from llmmagic.core.session.base import Emit, SessionBase

if TYPE_CHECKING:
    from llmmagic.core.training.prepared import TokenizedCache
    from llmmagic.core.training.sources import DataSource


class TrainingOperations(SessionBase):
    """Train and evaluate."""

    _tokenized_rows: TokenizedCache | None = None

    def _tokenized(self) -> TokenizedCache:
        """Where an inspection leaves its rows for the training that follows."""
        from llmmagic.core.training.prepared import TokenizedCache

        if self._tokenized_rows is None:
            self._tokenized_rows = TokenizedCache()
        return self._tokenized_rows

    def train(
        self,
        data: DataSource,
        config: TrainConfig | None = None,
        *,
        eval_data: DataSource | None = None,
        dry_run: bool = False,
        processes: int = 1,
        **settings: Any,
    ) -> Operation[TrainEvent]:
        """Train an adapter on the loaded model; afterwards the session chats with it.

        Args:
            data: Hub id, file, ``Dataset``, ``DataFrame`` or list of rows.
            config: What to train and how.
            eval_data: Held-out rows; the loss on them is taken before and after.
            dry_run: Do everything up to the first step, and no step.
            processes: Train in so many processes of their own, each with a GPU of its own where there are any.
            **settings: Fields of `TrainConfig`, when no ``config`` is given.

        Returns:
            Events; the last is `TrainFinished`, after a dry run `TrainStarted`, or `Cancelled` when it was stopped
            before the first step.

        Raises:
            ConfigError: An unknown setting, or a value that is not allowed.
            ModelNotLoadedError: No model is loaded in this process.
            SessionBusyError: Something else is running.
            DataError: While the events are read: no such data, or rows that cannot be understood.
            TrainingError: Likewise: training failed; the session is as it was before.
        """
        if config is not None and settings:
            raise ConfigError("Settings come without a config, or inside it, not beside it.")
        if processes < 1:
            raise ConfigError(f"processes must be 1 or more, got {processes!r}.")
        chosen: TrainConfig = config or replace_known(TrainConfig, settings)
        loaded = self._require_loaded("Training")

        def work(emit: Emit[TrainEvent], cancel: CancelToken) -> TrainEvent:
            from llmmagic.core.training.run import train

            opened = self._require("Training")
            opened.engine.reset()  # its memory is needed now, and what the KV cache holds is wrong afterwards
            self._drop_second()
            source = self._rows(data, chosen.method, emit)
            held_out = None if eval_data is None else self._rows(eval_data, chosen.method, emit)
            try:
                if processes > 1:
                    from llmmagic.core.training.launch import train_in_processes

                    return train_in_processes(
                        loaded,
                        source,
                        chosen,
                        processes,
                        eval_source=held_out,
                        dry_run=dry_run,
                        emit=emit,
                        cancel=cancel,
                    )
                return train(
                    loaded,
                    source,
                    chosen,
                    eval_source=held_out,
                    dry_run=dry_run,
                    cache=self._tokenized(),
                    emit=emit,
                    cancel=cancel,
                )
            finally:
                if self._config is not None and loaded.config != self._config:
                    self._config = loaded.config  # all weights were trained: it is another model now
                self._weights_changed()

        return self._start("train", work, stopped=lambda: Cancelled("train"))

    @property
    def load_config(self) -> LoadConfig:
        """How the loaded model was loaded, as a run file says it.

        Raises:
            ModelNotLoadedError: No model is loaded in this process.
        """
        return self._require_loaded("Training").config

    def inspect(
        self, data: DataSource, config: TrainConfig | None = None, *, rows: int = 3, **settings: Any
    ) -> Operation[DataEvent]:
        """Look at training data as training would read it, without training.

        Training on the same data with the same settings afterwards does not tokenise it again.

        Args:
            data: Like that of `train`.
            config: Columns, recipe, ``max_length`` and whatever else decides what becomes of the rows.
            rows: How many rows to show token by token.
            **settings: Fields of `TrainConfig`, when no ``config`` is given.

        Returns:
            Events; the last is `DataInspected`, or `Cancelled`. What is wrong with the data is a finding in it.

        Raises:
            ConfigError: An unknown setting, or a value that is not allowed.
            ModelNotLoadedError: No model is loaded in this process: tokens are those of a model.
            SessionBusyError: Something else is running.
            DataError: While the events are read: no such data, or rows that cannot be understood.
        """
        if config is not None and settings:
            raise ConfigError("Settings come without a config, or inside it, not beside it.")
        chosen: TrainConfig = config or replace_known(TrainConfig, settings)
        loaded = self._require_loaded("Looking at data token by token")

        def work(emit: Emit[DataEvent], cancel: CancelToken) -> DataEvent:
            from llmmagic.core.training.inspection import inspect_data

            source = self._rows(data, chosen.method, emit)
            return inspect_data(loaded, source, chosen, views=rows, cache=self._tokenized(), emit=emit, cancel=cancel)

        return self._start("inspect", work, stopped=lambda: Cancelled("inspect"))

    def evaluate(
        self,
        data: DataSource,
        *,
        limit: int | None = None,
        split: str | None = None,
        columns: Mapping[str, str] | None = None,
        compare: bool = True,
    ) -> Operation[EvalEvent]:
        """Take loss, perplexity and token accuracy on held-out rows, with the adapter that is on and without it.

        Args:
            data: Like that of `train`.
            limit: Use only the first rows.
            split: Of a Hub data set, slices included.
            columns: What columns mean, where their names do not say it.
            compare: Measure the bare model, too, if an adapter is on.

        Returns:
            Events; the last is `EvalFinished`, or `Cancelled`.

        Raises:
            ModelNotLoadedError: No model is loaded in this process.
            SessionBusyError: Something else is running.
            DataError: While the events are read: no such data, or rows that cannot be understood.
        """
        loaded = self._require_loaded("Evaluation")

        def work(emit: Emit[EvalEvent], cancel: CancelToken) -> EvalEvent:
            from llmmagic.core.training.measure import evaluate

            source = self._rows(data, "sft", emit)
            return evaluate(
                loaded, source, limit=limit, split=split, columns=columns, compare=compare, emit=emit, cancel=cancel
            )

        return self._start("evaluate", work, stopped=lambda: Cancelled("evaluate"))

    def evaluate_tasks(self, tasks: Sequence[str], *, limit: int | None = None) -> Operation[EvalEvent]:
        """Hand the model to lm-eval-harness (``pip install llmmagic[eval]``), with the adapter that is on.

        Args:
            tasks: Names of its tasks: ``"hellaswag"``, ``"arc_easy"``, ...
            limit: Use only so many examples of each.

        Returns:
            Events; the last is `TasksFinished`, or `Cancelled`.

        Raises:
            ModelNotLoadedError: No model is loaded in this process.
            SessionBusyError: Something else is running.
            ConfigError: While the events are read: the harness is not installed, or has no such task.
        """
        loaded = self._require_loaded("Evaluation")

        def work(emit: Emit[EvalEvent], cancel: CancelToken) -> EvalEvent:
            from llmmagic.core.training.harness import run_tasks

            return run_tasks(loaded, tasks, limit=limit, emit=emit, cancel=cancel)

        return self._start("evaluate", work, stopped=lambda: Cancelled("evaluate"))

    def _rows(self, source: DataSource, method: MethodName, emit: Callable[[Notice], None]) -> DataSource:
        """A source as it is; for what was collected in chats, its rows."""
        from llmmagic.core.training.collected import collect, is_collected

        if not is_collected(source):
            return source
        with self._conversations.kept() as store:
            return collect(source, method, store, self._conversations.by_name, emit)
