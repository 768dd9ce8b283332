"""TRL's trainer for rewards, made to report and to stop."""

from __future__ import annotations

from typing import Any

from trl import GRPOTrainer
from typing_extensions import override

from llmmagic.core.training.examples import make_examples_like_chat
from llmmagic.core.training.methods.reference import AdapterOffReference
from llmmagic.core.training.methods.sampling import encode_prompts


class RewardTrainer(AdapterOffReference, GRPOTrainer):  # type: ignore[misc] # TRL is not typed
    """Answers the prompts of the column ``prompt``; the other columns go to the reward functions."""

    @override
    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """As the chat sends them."""
        model = self.accelerator.unwrap_model(self.model)
        # the limit matters for examples with an answer alone
        maker = make_examples_like_chat(model, self.processing_class, max_length=1 << 40)
        return encode_prompts(maker, prompts), None, {}

    @override
    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: list[list[int]]
    ) -> Any:
        self.progress.tokens += sum(map(len, completion_ids_list)) * self.args.world_size
        return super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)

    @override
    def _tokens_of(self, inputs: Any) -> int:
        return 0  # rows without answers so far: the answers are counted when they are judged
