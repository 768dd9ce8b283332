"""Kahneman-Tversky optimisation (arXiv:2402.01306): make answers that were rated good likelier, the others less so."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from llmmagic.core.config import TrainConfig
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.methods.base import DataRequest, Emit, Figures, Method, MethodData
from llmmagic.core.training.methods.layouts import find_columns, rated_of
from llmmagic.core.training.methods.preference import (
    OWNED_BY_REFERENCE,
    implied_rewards,
    log_sigmoid,
    maker_for,
    mean,
    tell_findings,
    understood,
)
from llmmagic.core.training.methods.rows import RowCount, RowData, finding
from llmmagic.core.training.sources import read_table

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel
    from llmmagic.core.training.trainer import Reporting

_WANTS = "kto needs a prompt, a completion and a label: true for good, false for bad."
_ORDER = "kto estimates how far the model has moved from neighbouring rows, whose order is fixed"


class KTO(Method):
    """Learns from ratings."""

    name = "kto"
    owned: ClassVar[Mapping[str, str]] = {**OWNED_BY_REFERENCE, "train_sampling_strategy": _ORDER}
    fixed: ClassVar[Mapping[str, Any]] = {"train_sampling_strategy": "sequential"}
    metrics: ClassVar[Mapping[str, str]] = {
        "rewards/margins": "margin",
        "rewards/chosen": "reward_good",
        "rewards/rejected": "reward_bad",
        "kl": "kl",
    }
    findings = (
        "empty-answer", "one-sided", "prompt-mismatch", "all-masked", "truncated", "duplicates", "eval-overlap",
    )  # fmt: skip
    shown = ("beta", "loss_type")
    sequences = 2  # the answer, and one of another row to estimate the KL divergence

    @override
    def defaults(self, *, full: bool, fresh: bool) -> Mapping[str, Any]:
        return {"learning_rate": 5e-5}

    @override
    def least_batch(self, args: Any) -> int:
        return 2  # an answer of another row is needed beside each

    @override
    def read(self, request: DataRequest) -> RowData:
        table = read_table(request.source, split=request.split)
        columns = find_columns(
            table,
            request.config.columns,
            needed=("completion", "label"),
            optional=("prompt", "system"),
            wants=_WANTS,
        )
        maker, count, limit = maker_for(request), RowCount(request.config.allow, request.known), request.max_length
        made: list[tuple[list[int], list[int], bool]] = []
        for number, rated in understood(request, table, count, lambda row, n: rated_of(row, n, columns)):
            count.seen(number, rated.prompt, rated.answer, rated.good)
            prompt, answer = maker.prompt_and_answer([*rated.prompt, rated.answer], number)
            count.check_prompt(number, maker, rated.prompt, prompt)
            room = limit - len(prompt)
            if room <= 0:
                count.found("all-masked", number)
                continue
            if len(answer) > room:
                count.found("truncated", number)
            made.append((prompt, answer[:room], rated.good))
            count.keep(prompt, answer[:room], [int(rated.good)], trained=len(answer[:room]))
        named = {column: part for part, column in columns.items()}
        dataset = _dataset(made, request)
        data = count.data(dataset, table.source, "ratings", named, len(table.rows))
        good = sum(row[2] for row in made)
        if not request.held_out and made and good in (0, len(made)):
            text = f"All {len(made)} ratings are {'good' if good else 'bad'}: kto learns from the difference."
            data = data.found(finding("one-sided", text, request.config.allow))
        tell_findings(data, request)
        return data

    @override
    def trainer(self) -> type[Reporting]:
        from llmmagic.core.training.methods.kto_trainer import RatingTrainer

        return RatingTrainer

    @override
    def measure(
        self, loaded: LoadedModel, data: MethodData, args: Any, config: TrainConfig, *, emit: Emit, cancel: CancelToken
    ) -> Figures:
        """The reward taken as the log-odds of a good rating; loss: ``-log`` of the probability of the given ones."""
        rows = data.dataset
        rewards = implied_rewards(
            loaded.model, list(rows["prompt_ids"]), list(rows["completion_ids"]), args.beta, emit=emit, cancel=cancel
        )
        labels = list(rows["label"])
        good = [reward for reward, label in zip(rewards, labels, strict=True) if label]
        bad = [reward for reward, label in zip(rewards, labels, strict=True) if not label]
        metrics = {"reward_good": mean(good)} if good else {}
        metrics |= {"reward_bad": mean(bad)} if bad else {}
        if good and bad:
            metrics["margin"] = mean(good) - mean(bad)
        right = [reward if label else -reward for reward, label in zip(rewards, labels, strict=True)]
        return Figures(loss=-mean([log_sigmoid(log_odds) for log_odds in right]), rows=len(right), metrics=metrics)


def _dataset(made: list[tuple[list[int], list[int], bool]], request: DataRequest) -> Any:
    """In a random order that stays, each row with the answer of a neighbour in its batch for the KL estimate."""
    import datasets

    rows = list(made)
    if not request.held_out:
        random.Random(request.args.seed).shuffle(rows)
    size = request.args.per_device_train_batch_size
    others: list[list[int]] = []
    for start in range(0, len(rows), size):
        answers = [answer for _, answer, _ in rows[start : start + size]]
        # A row that is alone in the last batch takes the answer of the row before that.
        others += [answers[-1] if len(answers) > 1 else rows[start - 1][1], *answers[:-1]]
    return datasets.Dataset.from_dict(
        {
            "prompt_ids": [prompt for prompt, _, _ in rows],
            "completion_ids": [answer for _, answer, _ in rows],
            "KL_completion_ids": others,
            "label": [good for _, _, good in rows],
        }
    )
