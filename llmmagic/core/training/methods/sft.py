"""Supervised fine-tuning: the next token of given answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from llmmagic.core.config import TrainConfig
from llmmagic.core.events import Notice
from llmmagic.core.operation import CancelToken
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
    shown = ("completion_only_loss",)

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
        if request.args.packing and not request.held_out:
            data = pack(data, request.max_length, request.args.packing_strategy)
        return data
