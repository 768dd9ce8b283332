"""Group relative policy optimisation (arXiv:2402.03300): answer, be judged, make the better answers likelier.

Rewards are compared within the group of answers to one prompt, so a function that gives all of them the same teaches
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import DataFormatError, TrainingError
from llmmagic.core.events import PrepareProgress
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.methods.base import DataRequest, Emit, Figures, Method, MethodData
from llmmagic.core.training.methods.layouts import find_columns, prompt_of
from llmmagic.core.training.methods.preference import maker_for, mean, tell_findings, understood
from llmmagic.core.training.methods.rewards import Reward, make_rewards, probe
from llmmagic.core.training.methods.rows import RowCount, RowData, finding
from llmmagic.core.training.owned import OWNED
from llmmagic.core.training.sources import read_table

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel
    from llmmagic.core.training.llama2 import Message
    from llmmagic.core.training.trainer import Reporting

_WANTS = "grpo needs prompts."
_SCREEN = OWNED["disable_tqdm"]
_REFERENCE = "the reference is the model with the adapter off"
_PROBED_ROWS = 2
_SAMPLED_ROWS = 8


class GRPO(Method):
    """Learns from its own answers."""

    name = "grpo"
    owned: ClassVar[Mapping[str, str]] = {
        **OWNED,
        "chat_template_kwargs": "prompts are those that the chat sends",
        "log_completions": _SCREEN,
        "log_completions_hub_repo": OWNED["hub_token"],
        "log_unique_prompts": _SCREEN,
        "num_completions_to_print": _SCREEN,
        "ref_model_mixup_alpha": _REFERENCE,
        "ref_model_sync_steps": _REFERENCE,
        "sync_ref_model": _REFERENCE,
    }
    fixed: ClassVar[Mapping[str, Any]] = {
        "remove_unused_columns": False
    }  # the other columns are for the reward functions
    metrics: ClassVar[Mapping[str, str]] = {
        "reward": "reward",
        "reward_std": "reward_std",
        "kl": "kl",
        "completions/mean_length": "completion_tokens",
    }
    findings = (
        "empty-answer", "prompt-mismatch", "all-masked", "duplicates", "eval-overlap", "reward-failed",
        "constant-reward",
    )  # fmt: skip
    shown = ("num_generations", "max_completion_length", "temperature", "beta")
    sequences = 0  # how long its answers get is not known before

    @override
    def defaults(self, *, full: bool, fresh: bool) -> Mapping[str, Any]:
        return {
            "learning_rate": 5e-5,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "max_completion_length": 128,
        }

    @override
    def read(self, request: DataRequest) -> RowData:
        import datasets

        rewards = make_rewards(request.config.reward)
        table = read_table(request.source, split=request.split)
        part = "messages" if _only_messages(table.columns, request.config.columns) else "prompt"
        columns = find_columns(table, request.config.columns, needed=(part,), optional=("system",), wants=_WANTS)
        maker, count = maker_for(request), RowCount(request.config.allow, request.known)
        room = request.loaded.info.context_window - request.args.max_completion_length
        rows: list[dict[str, Any]] = []
        for number, prompt in understood(request, table, count, lambda row, n: prompt_of(row, n, columns)):
            others = _other_columns(dict(table.rows[number - 1]), columns)
            count.seen(number, prompt, others)
            ids = maker.chat_prompt(prompt)
            if len(ids) > room:
                count.found("all-masked", number)
                continue
            rows.append({"prompt": _as_given(prompt, part), **others})
            count.keep(ids, trained=0)
        named = {column: name for name, column in columns.items()}
        data = count.data(datasets.Dataset.from_list(rows), table.source, "prompts", named, len(table.rows))
        if not request.held_out:
            data = self._probed(data, rows, rewards, request)
        tell_findings(data, request)
        per_step = self.prompts_at_once(request.args)
        if not request.held_out and len(rows) < per_step:
            raise DataFormatError(
                f"{len(rows)} prompts are fewer than the {per_step} that are answered at a time.",
                hint="Lower per_device_train_batch_size, raise num_generations, or give more prompts.",
            )
        return data

    def _probed(
        self, data: RowData, rows: Sequence[Mapping[str, Any]], rewards: Sequence[Reward], request: DataRequest
    ) -> RowData:
        """The data with what is wrong with the reward functions."""
        allow = request.config.allow
        try:
            constant = probe(rewards, rows[:_PROBED_ROWS])
        except TrainingError as err:
            if "reward-failed" not in allow:
                raise TrainingError(
                    f"{err.message} It was tried on made-up answers.",
                    hint=f"{err.hint} If only those are the reason: --allow reward-failed.".strip(),
                ) from err
            return data.found(finding("reward-failed", err.message, allow))
        if not constant:
            return data
        text = f"On a probe every answer got the same from {', '.join(constant)}: of such rewards nothing is learnt."
        return data.found(finding("constant-reward", text, allow))

    @override
    def trainer(self) -> type[Reporting]:
        from llmmagic.core.training.methods.grpo_trainer import RewardTrainer

        return RewardTrainer

    @override
    def trainer_settings(self, config: TrainConfig) -> Mapping[str, Any]:
        return {"reward_funcs": make_rewards(config.reward)}

    @override
    def measure(
        self, loaded: LoadedModel, data: MethodData, args: Any, config: TrainConfig, *, emit: Emit, cancel: CancelToken
    ) -> Figures:
        """The mean reward of one answer to each prompt, drawn with the same seed each time; loss: its negative."""
        from llmmagic.core.training.methods.sampling import sample_answers

        rewards, rows = make_rewards(config.reward), data.dataset
        weights = args.reward_weights or [1.0] * len(rewards)
        scores: list[float] = []
        for start in range(0, len(rows), _SAMPLED_ROWS):
            cancel.check()
            batch = [rows[place] for place in range(start, min(start + _SAMPLED_ROWS, len(rows)))]
            prompts = [row["prompt"] for row in batch]
            texts, ids = sample_answers(loaded, prompts, args, seed=args.seed + start)
            answers: list[Any] = [
                [{"role": "assistant", "content": text}] if isinstance(prompt, list) else text
                for prompt, text in zip(prompts, texts, strict=True)
            ]
            columns = {name: [row[name] for row in batch] for name in batch[0] if name != "prompt"}
            given = [reward(prompts, answers, completion_ids=ids, **columns) for reward in rewards]
            for each in zip(*given, strict=True):
                scores.append(sum(weight * (value or 0.0) for weight, value in zip(weights, each, strict=True)))
            emit(PrepareProgress(done=start + len(batch), total=len(rows), detail="answer held-out prompts"))
        return Figures(loss=-mean(scores), rows=len(scores), metrics={"reward": mean(scores)})

    def prompts_at_once(self, args: Any) -> int:
        """Prompts that are answered before the weights change."""
        return max(int(args.generation_batch_size) // int(args.num_generations), 1)

    @override
    def rows_per_step(self, args: Any) -> int:
        return max(
            self.prompts_at_once(args) * int(args.gradient_accumulation_steps) // int(args.steps_per_generation), 1
        )

    @override
    def steps_per_epoch(self, args: Any, examples: int) -> int:
        batches = examples // self.prompts_at_once(args) * int(args.num_iterations) * int(args.steps_per_generation)
        return max(math.ceil(batches / int(args.gradient_accumulation_steps)), 1)

    @override
    def shrink(self, args: Any, factor: int) -> None:
        super().shrink(args, factor)
        args.steps_per_generation *= factor


def _only_messages(columns: Sequence[str], given: Mapping[str, str]) -> bool:
    names = {column.lower() for column in columns}
    return "messages" in given.values() or (
        bool(names & {"messages", "conversations"}) and not names & {"prompt"} and "prompt" not in given.values()
    )


def _as_given(prompt: Sequence[Message], part: str) -> Any:
    """A text where the data had one: reward functions get what they know."""
    if part == "prompt" and len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return [dict(message) for message in prompt]


def _other_columns(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    taken = {*columns.values(), "prompt", "completion", "completions"}
    return {name: value for name, value in row.items() if name not in taken}
