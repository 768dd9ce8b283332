"""Supervised fine-tuning: the next token of given answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from llmmagic.core.config import TrainConfig
from llmmagic.core.events import Notice
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.batching import choose_batching, rows_stay_apart
from llmmagic.core.training.dataset import TokenizedData, pack
from llmmagic.core.training.evaluate import held_out_loss
from llmmagic.core.training.examples import LossOn, make_examples_like_chat
from llmmagic.core.training.inspection import report_on
from llmmagic.core.training.methods.base import DataRequest, Emit, Figures, Method, MethodData
from llmmagic.core.training.options import SFT_FIXED
from llmmagic.core.training.prepared import prepare_rows

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel
    from llmmagic.core.training.trainer import Reporting


class TokenMethod(Method):
    """A method whose loss is the mean over tokens."""

    fixed: ClassVar[Mapping[str, Any]] = SFT_FIXED
    needs_adapter = False

    @override
    def trainer(self) -> type[Reporting]:
        from llmmagic.core.training.methods.sft_trainer import TokenTrainer

        return TokenTrainer

    @override
    def measure(
        self, loaded: LoadedModel, data: MethodData, args: Any, config: TrainConfig, *, emit: Emit, cancel: CancelToken
    ) -> Figures:
        figures = held_out_loss(loaded.model, data.dataset, emit=emit, cancel=cancel)
        return Figures(figures.loss, figures.rows, figures.perplexity)


class SFT(TokenMethod):
    """Learns given answers."""

    name = "sft"
    shown = ("completion_only_loss", "packing", "padding_free", "train_sampling_strategy")

    @override
    def defaults(self, *, full: bool, fresh: bool) -> Mapping[str, Any]:
        return {"learning_rate": 2e-5} if full else {}

    @override
    def read(self, request: DataRequest) -> TokenizedData:
        config, loaded = request.config, request.loaded
        # Held-out rows on the answers, whatever is trained on: only so are recipes comparable.
        whole = request.args.completion_only_loss is False and not request.held_out
        loss_on: LossOn = "all" if whole else "answers"
        prepared = prepare_rows(
            request.source,
            make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=request.max_length, loss_on=loss_on),
            split=request.split,
            columns=config.columns,
            allow=config.allow,
            known=request.known,
            cache=request.cache,
            emit=request.emit,
            cancel=request.cancel,
            detail=request.detail,
        )
        if not request.held_out:  # before anything is refused: the report shows what is wrong
            views = request.views
            request.emit(report_on(loaded, prepared, max_length=request.max_length, loss_on=loss_on, views=views))
        data = prepared.data
        data.require_sound()
        about = "Held-out data: " if request.held_out else ""
        for finding in data.findings:
            request.emit(Notice(f"{about}{finding.text}", level="warning", topic=finding.name))
        return data if request.held_out else _batched(data, request)


def _batched(data: TokenizedData, request: DataRequest) -> TokenizedData:
    """Decide how the rows of a batch are put together; the trainer's settings say it then."""
    args, config = request.args, request.config
    if args.packing or args.padding_free:
        if not rows_stay_apart(request.loaded.model):
            text = "This model lets rows that share a sequence see each other: packing changes what is learnt."
            request.emit(Notice(text, level="warning", topic="packing"))
        return pack(data, request.max_length, args.packing_strategy) if args.packing else data
    if config.recipe != "default":
        return data  # exactly what it was
    choice = choose_batching(request.loaded, args, data.dataset, config.options)
    if choice is None or choice.batching == "padded":
        return data
    if choice.batching == "packed":
        args.padding_free = True
    else:
        args.train_sampling_strategy = "group_by_length"
    return data
