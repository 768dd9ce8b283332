"""Direct preference optimisation (arXiv:2305.18290): of two answers, make the better one more likely."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from llmmagic.core.config import TrainConfig
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.methods.base import DataRequest, Emit, Figures, Method, MethodData
from llmmagic.core.training.methods.layouts import find_columns, pair_of
from llmmagic.core.training.methods.preference import (
    OWNED_BY_REFERENCE,
    implied_rewards,
    log_sigmoid,
    maker_for,
    mean,
    tell_findings,
    understood,
)
from llmmagic.core.training.methods.rows import RowCount, RowData
from llmmagic.core.training.sources import read_table

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel
    from llmmagic.core.training.trainer import Reporting

_WANTS = "dpo needs a prompt, a chosen and a rejected answer."


class DPO(Method):
    """Learns from pairs of answers."""

    name = "dpo"
    owned: ClassVar[Mapping[str, str]] = OWNED_BY_REFERENCE
    metrics: ClassVar[Mapping[str, str]] = {"rewards/margins": "margin", "rewards/accuracies": "accuracy"}
    findings = (
        "empty-answer", "same-answers", "prompt-mismatch", "all-masked", "truncated", "duplicates", "eval-overlap",
    )  # fmt: skip
    shown = ("beta", "loss_type")
    sequences = 2  # the better answer and the worse one

    @override
    def defaults(self, *, full: bool, fresh: bool) -> Mapping[str, Any]:
        return {"learning_rate": 5e-5}

    @override
    def read(self, request: DataRequest) -> RowData:
        import datasets

        table = read_table(request.source, split=request.split)
        columns = find_columns(
            table,
            request.config.columns,
            needed=("chosen", "rejected"),
            optional=("prompt", "system"),
            wants=_WANTS,
        )
        maker, count, limit = maker_for(request), RowCount(request.config.allow, request.known), request.max_length
        made: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
        for number, pair in understood(request, table, count, lambda row, n: pair_of(row, n, columns)):
            count.seen(number, pair.prompt, pair.chosen, pair.rejected)
            if pair.chosen["content"] == pair.rejected["content"]:
                count.found("same-answers", number)
                continue
            prompt, chosen = maker.prompt_and_answer([*pair.prompt, pair.chosen], number)
            _, rejected = maker.prompt_and_answer([*pair.prompt, pair.rejected], number)
            count.check_prompt(number, maker, pair.prompt, prompt)
            room = limit - len(prompt)
            if room <= 0:
                count.found("all-masked", number)
                continue
            if max(len(chosen), len(rejected)) > room:
                count.found("truncated", number)
            row = (prompt, chosen[:room], rejected[:room])
            count.keep(*row, trained=len(row[1]) + len(row[2]))
            for name, ids in zip(made, row, strict=True):
                made[name].append(ids)
        named = {column: part for part, column in columns.items()}
        data = count.data(datasets.Dataset.from_dict(made), table.source, "preferences", named, len(table.rows))
        tell_findings(data, request)
        return data

    @override
    def trainer(self) -> type[Reporting]:
        from llmmagic.core.training.methods.dpo_trainer import PreferenceTrainer

        return PreferenceTrainer

    @override
    def measure(
        self, loaded: LoadedModel, data: MethodData, args: Any, config: TrainConfig, *, emit: Emit, cancel: CancelToken
    ) -> Figures:
        """Loss: ``-log sigmoid(margin)`` (equation 7); margin: reward of the chosen answer less that of the other."""
        rows = data.dataset
        prompts = list(rows["prompt_ids"])
        chosen, rejected = (
            implied_rewards(loaded.model, prompts, list(rows[name]), args.beta, emit=emit, cancel=cancel)
            for name in ("chosen_ids", "rejected_ids")
        )
        margins = [better - worse for better, worse in zip(chosen, rejected, strict=True)]
        return Figures(
            loss=-mean([log_sigmoid(margin) for margin in margins]),
            rows=len(margins),
            metrics={"margin": mean(margins), "accuracy": mean([float(margin > 0) for margin in margins])},
        )
