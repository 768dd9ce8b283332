"""All methods by name."""

from __future__ import annotations

from llmmagic.core.config import MethodName
from llmmagic.core.training.methods.base import Method
from llmmagic.core.training.methods.dpo import DPO
from llmmagic.core.training.methods.grpo import GRPO
from llmmagic.core.training.methods.kto import KTO
from llmmagic.core.training.methods.pretrain import Pretrain
from llmmagic.core.training.methods.sft import SFT

METHODS: dict[MethodName, Method] = {method.name: method for method in (SFT(), Pretrain(), DPO(), KTO(), GRPO())}
