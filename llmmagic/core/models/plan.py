"""What a load is going to do, decided before any weight is read: which files, which device, how much memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmmagic.core.config import LoadConfig
from llmmagic.core.errors import ModelLoadError, ModelMemoryError
from llmmagic.core.events import Choice, Notice
from llmmagic.core.models.cache import Emit, find_entry
from llmmagic.core.models.estimate import Estimate, estimate
from llmmagic.core.models.hardware import Placement, detect, place
from llmmagic.core.models.names import MODEL_CONFIG
from llmmagic.core.models.noise import silence_known_noise
from llmmagic.core.models.progress import quiet_libraries
from llmmagic.core.models.quantize import QUANTIZED, SCHEMES, cache_key
from llmmagic.core.models.resolve import ResolvedAdapter, ResolvedModel, resolve, resolve_adapter
from llmmagic.core.models.tokenizer import first_line, remote_code_error
from llmmagic.core.operation import CancelToken

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_DEFAULT_WINDOW = 4096
"""For models that name no limit at all."""
_LONGEST = 10**8


@dataclass(frozen=True)
class LoadPlan:
    """A load that can start.

    Attributes:
        config: What was asked for.
        resolved: The base model's files.
        adapters: What goes on top, in this order.
        placement: Device, quantisation, dtype, and why.
        estimate: Size of the model and memory it takes.
        context_window: Tokens that prompt and reply may have together.
        quantized: Name of the entry in the cache of quantised models; ``None`` if there is nothing to quantise.
    """

    config: LoadConfig
    resolved: ResolvedModel
    adapters: tuple[ResolvedAdapter, ...]
    placement: Placement
    estimate: Estimate
    context_window: int
    quantized: str | None

    @property
    def device(self) -> str:
        """``"cpu"``, ``"cuda:0"``, ``"mps"``."""
        return self.placement.device

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What ``auto`` decided."""
        return self.placement.choices

    @property
    def memory_bytes(self) -> int:
        """What the loaded weights will take on the device."""
        return self.estimate.weights_bytes

    @property
    def peak_bytes(self) -> int:
        """Most memory on the device while loading."""
        return self.estimate.weights_bytes + self.estimate.largest_bytes + self.estimate.reserve_bytes

    @property
    def cached(self) -> Path | None:
        """The quantised weights, if they were saved by an earlier load."""
        return None if self.quantized is None else find_entry(QUANTIZED, self.quantized)

    def fits(self, free_bytes: int) -> bool:
        """Whether the model can be loaded into so much free memory."""
        return self.peak_bytes <= free_bytes

    def require(self, free_bytes: int) -> None:
        """Refuse a load that would run out of memory.

        Args:
            free_bytes: What is free on the device, or will be when the load starts.

        Raises:
            ModelMemoryError: It does not fit; with the figures and what would.
        """
        if self.fits(free_bytes):
            return
        smaller = "" if self.placement.quantization in ("nf4", "fp4") else "Use quantization=nf4, or "
        raise ModelMemoryError(
            f"{self.config.model_id} needs about {_gb(self.peak_bytes)} on {self.device} "
            f"({self.placement.quantization}, {self.placement.dtype}); {_gb(free_bytes)} are free.",
            hint=f"{smaller or 'Use '}a smaller model, or close other programs.",
            needed_bytes=self.peak_bytes,
            free_bytes=free_bytes,
            device=self.device,
        )


def prepare(config: LoadConfig, *, emit: Emit, cancel: CancelToken) -> LoadPlan:
    """Find a model and decide how to load it; download and convert it if need be. Reads no weights.

    Args:
        config: What the user asked for.
        emit: Gets progress and notices.
        cancel: Ends it.

    Returns:
        The plan, for `load_model`.

    Raises:
        ModelError: No such model, or it cannot be loaded as asked.
        ConfigError: Settings that do not go together.
        NetworkError: It would have to be downloaded and cannot.
        StorageError: No space for it.
    """
    silence_known_noise()
    hardware = detect(config.device)  # first: a wrong device should not cost a download
    resolved = resolve(
        config.model_id, revision=config.revision, code=config.trust_remote_code, emit=emit, cancel=cancel
    )
    adapters = () if resolved.adapter is None else (resolved.adapter,)
    if config.adapter is not None:
        adapters = (*adapters, resolve_adapter(config.adapter, emit=emit, cancel=cancel))
    raw = _read_json(resolved.folder / MODEL_CONFIG)
    _check_code(config, raw)
    own_scheme = _own_scheme(raw)
    placement = place(config, hardware, own_scheme=own_scheme, tiny=resolved.base_id == "tiny-random")
    with quiet_libraries():
        model_config = _model_config(config, resolved.folder)
        size = estimate(
            model_config,
            resolved.folder,
            placement,
            own_scheme=own_scheme,
            trust_remote_code=config.trust_remote_code,
        )
    quantized = None
    if placement.quantization in SCHEMES and own_scheme is None:
        quantized = cache_key(resolved.source_key, placement.quantization, placement.dtype)
    window = context_window(model_config, resolved.folder, config.max_context)
    if config.max_context is not None and config.max_context > window:
        text = f"{config.model_id} reads at most {window:,} tokens: max_context={config.max_context:,} changes nothing."
        emit(Notice(text, level="warning", topic="max-context"))
    return LoadPlan(
        config=config,
        resolved=resolved,
        adapters=adapters,
        placement=placement,
        estimate=size,
        context_window=window,
        quantized=quantized,
    )


def context_window(model_config: PretrainedConfig, folder: Path, max_context: int | None) -> int:
    """Tokens that prompt and reply may have together.

    Args:
        model_config: Of the model.
        folder: Its files; the tokenizer's limit counts when the model names none.
        max_context: Upper limit from the user.

    Returns:
        The model's limit, or less.
    """
    text_config = model_config.get_text_config()
    limit = getattr(text_config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:  # models without positions, Mamba for instance
        known = _read_json(folder / "tokenizer_config.json").get("model_max_length")
        limit = int(known) if isinstance(known, (int, float)) and 0 < known <= _LONGEST else _DEFAULT_WINDOW
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("linear", "dynamic") and "original_max_position_embeddings" not in rope:
        # Of these two the config names the length before stretching (transformers, modeling_rope_utils.py).
        limit = int(limit * float(rope.get("factor") or 1.0))
    return limit if max_context is None else min(limit, max_context)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _model_config(config: LoadConfig, folder: Path) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as err:  # depends on what is wrong in the file
        model_type = _read_json(folder / MODEL_CONFIG).get("model_type")
        if not model_type:
            raise ModelLoadError(f"{MODEL_CONFIG} in {str(folder)!r} names no model_type.") from err
        raise ModelLoadError(
            f"The installed transformers cannot read a {model_type!r} model: {first_line(err)}.",
            hint="A newer version may: pip install -U transformers.",
        ) from err
    return found


def _check_code(config: LoadConfig, raw: dict[str, Any]) -> None:
    """Models that bring code of their own, for which transformers has none."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if raw.get("auto_map") and raw.get("model_type") not in CONFIG_MAPPING and not config.trust_remote_code:
        raise remote_code_error(config.model_id)


def _own_scheme(raw: dict[str, Any]) -> str | None:
    """The quantisation that the files come in; bitsandbytes' by the names that users know."""
    stored = raw.get("quantization_config")
    if not isinstance(stored, dict):
        return None
    method = str(stored.get("quant_method") or "bitsandbytes")
    if method != "bitsandbytes":
        return method
    return "int8" if stored.get("load_in_8bit") else str(stored.get("bnb_4bit_quant_type", "fp4"))


def _gb(number_of_bytes: int) -> str:
    return f"{number_of_bytes / 1e9:,.2f} GB"
