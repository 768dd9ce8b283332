"""All weights of a model as what a run changes: full fine-tuning, and pre-training from scratch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel

from llmmagic.core.errors import ConfigError, TrainingError, did_you_mean
from llmmagic.core.events import ModelInfo, Notice
from llmmagic.core.models.memory import free_memory_bytes
from llmmagic.core.models.progress import no_library_bars, quiet_libraries
from llmmagic.core.models.tokenizer import first_line

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel

# In float32: a gradient, two moments of Adam, and the weight as it was before.
_BYTES_PER_WEIGHT = 4 + 8 + 4


@dataclass
class TrainableModel:
    """All weights of the session's model, ready to be trained.

    Attributes:
        loaded: The session's model.
        name: Of the model that comes out.
        fresh: It is a new one, with random weights.
        continued: Always false: a model that is trained again goes on by itself.
    """

    loaded: LoadedModel
    name: str
    fresh: bool
    _model_before: Any
    _info_before: ModelInfo
    _dtype: torch.dtype
    _before: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    continued: bool = False

    @property
    def model(self) -> Any:
        """The model."""
        return self.loaded.model

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The weights that change: all."""
        return dict(self.model.named_parameters())

    def settings(self) -> dict[str, str]:
        """What is trained, for people."""
        return {"peft": "none", "weights": "new and random" if self.fresh else "those of the loaded model"}

    def commit(self) -> None:
        """Keep the weights, frozen and in the precision that the model was loaded in."""
        self.model.requires_grad_(False)
        for parameter in self.model.parameters():
            parameter.grad = None
            parameter.data = parameter.data.to(self._dtype)
        self._before.clear()

    def rollback(self) -> None:
        """Put the session's model back to what it was before."""
        model = self._model_before
        if not self.fresh:
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter.data = self._before[name].to(parameter.device)
                    parameter.grad = None
            model.requires_grad_(False)
        self.loaded.model, self.loaded.info = model, self._info_before

    def save(self, folder: Path, emit: Callable[[Notice], None], *, resumed: bool) -> None:
        """Save it as a model folder; from now on the session's model is the one in that folder.

        Args:
            folder: Made if it is not there; a model that is in it is replaced.
            emit: Not needed.
            resumed: Likewise.

        Raises:
            OSError: It cannot be written.
        """
        loaded = self.loaded
        folder.mkdir(parents=True, exist_ok=True)
        # Written beside and moved file by file: an interrupted save leaves the old model readable.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temp, quiet_libraries(), no_library_bars():
            self.model.save_pretrained(temp)
            loaded.tokenizer.save_pretrained(temp)
            for file in sorted(Path(temp).iterdir()):
                file.replace(folder / file.name)
        name = str(folder.resolve())
        loaded.folder, loaded.base_id, loaded.base_revision = folder.resolve(), name, None
        loaded.config = replace(loaded.config, model_id=name, revision=None, adapter=None)
        loaded.info = replace(loaded.info, model_id=name, revision=None, from_cache=False)


def take_all(loaded: LoadedModel, name: str, model_config: Mapping[str, Any]) -> TrainableModel:
    """Make all weights of the session's model trainable.

    They are float32 while they are trained: what a step changes is often less than bfloat16 can tell apart.

    Args:
        loaded: The session's model.
        name: Of the model that comes out.
        model_config: For a new model in its place, with random weights; empty to train the one that is loaded.

    Returns:
        The weights.

    Raises:
        ConfigError: A quantised model, adapters, or a config that makes no model.
        TrainingError: It does not fit into memory.
    """
    info, model = loaded.info, loaded.model
    if isinstance(model, PeftModel) or info.adapters:
        raise ConfigError(
            f"All weights cannot be trained while adapters are on the model ({', '.join(info.adapters)}).",
            hint="Load the model anew without them (%llm_load MODEL --force), or train an adapter.",
        )
    if model_config:
        new = _new_model(model_config, loaded)
        _check_memory(sum(p.numel() for p in new.parameters()), info.device)
        trained = TrainableModel(loaded, name, True, model, info, torch.float32)
        loaded.model, loaded.info = new, _info_of(new, info)
        return trained
    if info.quantization != "none":
        raise ConfigError(
            f"All weights of a model in {info.quantization} cannot be trained.",
            hint="Load it with --quantization none, or train an adapter (peft: lora).",
        )
    _check_memory(info.parameters, info.device)
    trained = TrainableModel(loaded, name, False, model, info, model.dtype)
    trained._before = {key: p.detach().to("cpu", copy=True) for key, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data = parameter.data.float()
    model.requires_grad_(True)
    return trained


def _new_model(settings: Mapping[str, Any], loaded: LoadedModel) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    given = dict(settings)
    kind = given.pop("model_type", None)
    if not isinstance(kind, str):
        raise ConfigError("A model_config needs a model_type.", hint="For instance: model_type: llama.")
    tokenizer = loaded.tokenizer
    ours = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        known = AutoConfig.for_model(kind).to_dict()
        for key in given:
            if key not in known:  # Transformers would take it, and do nothing with it
                raise ConfigError(f"A {kind} has no setting {key!r}.", hint=did_you_mean(key, known))
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**ours, **given}))
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RuntimeError) as err:
        if isinstance(err, ConfigError):
            raise
        raise ConfigError(f"This model_config makes no model: {first_line(err)}.") from err
    return model.to(device=loaded.info.device, dtype=torch.float32)


def _info_of(model: Any, before: ModelInfo) -> ModelInfo:
    config = model.config.get_text_config()
    return replace(
        before,
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        quantization="none",
        dtype="float32",
        context_window=int(getattr(config, "max_position_embeddings", None) or before.context_window),
        memory_bytes=model.get_memory_footprint(),
        choices=(),
    )


def _check_memory(parameters: int, device: str) -> None:
    needed, free = parameters * _BYTES_PER_WEIGHT, free_memory_bytes(device)
    if needed > free:
        raise TrainingError(
            f"To train all {parameters:,} weights takes {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free.",
            hint="Train an adapter instead (peft: lora), or a smaller model.",
        )
