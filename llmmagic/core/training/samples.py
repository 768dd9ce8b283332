"""Answers to chosen prompts while a model is trained, so that one watches it change.

Nothing of the training is touched: the answers are greedy, draw no random numbers and are read by no gradient, and the
mode that the model was in is put back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from typing_extensions import override

from llmmagic.core.config import GenerationConfig, TrainConfig
from llmmagic.core.engines.transformers import TransformersEngine
from llmmagic.core.errors import ConfigError
from llmmagic.core.events import GenerationFinished, Notice, TrainEvent, TrainSample
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.examples import make_examples_like_chat

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

    from llmmagic.core.models.loaded import LoadedModel
    from llmmagic.core.training.trainer import Progress

_TIMES = 4
"""How often a run is sampled by itself, beside before and after."""
_LEAST_TOKENS = 8


class Samples(TrainerCallback):  # type: ignore[misc] # transformers is not typed
    """Answers prompts before, during and after a run."""

    def __init__(
        self,
        loaded: LoadedModel,
        config: TrainConfig,
        total_steps: int,
        *,
        emit: Callable[[TrainEvent], None],
        cancel: CancelToken,
        main: bool = True,
    ) -> None:
        """Write the prompts with the model's chat template, as the chat would.

        Args:
            loaded: The session's model; answers with whatever weights it has at that moment.
            config: Names the prompts, and how often they are answered.
            total_steps: Of the run.
            emit: Gets a `TrainSample` per prompt and time.
            cancel: A request ends an answer; it is then not told.
            main: Whether this is the process that tells; the others of a run do not answer.

        Raises:
            ConfigError: A prompt that leaves no room for an answer.
            ChatTemplateError: The model's template refuses a prompt.
        """
        self._loaded = loaded
        self._emit = emit
        self._cancel = cancel
        self._every = config.sample_steps or max(total_steps // _TIMES, 1)
        self._progress: Progress | None = None
        self._told = -1
        maker = make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=loaded.info.context_window)
        self._generation = GenerationConfig(
            temperature=0.0, max_new_tokens=config.sample_tokens, stop_token_ids=tuple(sorted(maker.end_ids))
        )
        self._prompts: list[tuple[str, list[int]]] = []
        if not main or _sharded():
            if main and config.samples:
                text = "The processes share the model's weights between them: samples are not answered."
                emit(Notice(text, level="warning", topic="samples"))
            return
        for sample in config.samples:
            messages = [{"role": "user", "content": sample}] if isinstance(sample, str) else _written(sample)
            ids = maker.chat_prompt(messages)
            title = messages[-1]["content"]
            if len(ids) + _LEAST_TOKENS > loaded.info.context_window:
                raise ConfigError(
                    f"The sample {title[:40]!r} is {len(ids):,} tokens long and leaves no room for an answer.",
                    hint=f"The model's context window is {loaded.info.context_window:,} tokens.",
                )
            self._prompts.append((title, ids))

    def attach(self, trainer: Any, progress: Progress) -> None:
        """Answer while this trainer trains.

        Args:
            trainer: About to start.
            progress: Does not count the time that answers take.
        """
        self._progress = progress
        if self._prompts:
            trainer.add_callback(self)

    def answer(self, step: int) -> None:
        """Answer all prompts now.

        Args:
            step: Optimizer steps done; the same one is answered once.
        """
        if step == self._told or self._cancel.requested:
            return
        model = self._loaded.model
        training = model.training
        engine = TransformersEngine(self._loaded)  # a new one: what an old KV cache holds is of other weights
        model.eval()
        try:
            for title, ids in self._prompts:
                for event in engine.generate(ids, self._generation, self._cancel):
                    if isinstance(event, GenerationFinished) and event.finish_reason != "cancelled":
                        self._emit(TrainSample(step, title, event.text, event.finish_reason))
        finally:
            engine.close()
            model.train(training)
        self._told = step

    @override
    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        due = state.global_step % self._every == 0 and state.global_step < state.max_steps
        if due and not control.should_training_stop and self._progress is not None:
            with self._progress.paused():
                self.answer(state.global_step)


def _sharded() -> bool:
    """Whether accelerate was told to spread the weights over the processes: no one of them has the model."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}") == "true" for name in ("FSDP", "DEEPSPEED"))


def _written(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Role and content of messages up to the last question: what follows it is for the model to say."""
    written = [{"role": message["role"], "content": message["content"]} for message in messages]
    while written and written[-1]["role"] != "user":
        written.pop()
    if not written:
        raise ConfigError("A conversation to sample has no question.", hint="Its last question is what is answered.")
    return written
