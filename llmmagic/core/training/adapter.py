"""Which weights a run changes: a new adapter, or one that goes on. Never one that is silently reset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from llmmagic.core.errors import ConfigError, TrainingError
from llmmagic.core.events import Notice
from llmmagic.core.models.adapters import save_adapter, use_adapter
from llmmagic.core.training.checkpoints import set_aside_adapter
from llmmagic.core.training.trainable import plain_setting

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel

# What they begin with is taken out of the base's weights: the adapter would be wrong on the base as it is loaded again.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")
_SHOWN = ("r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "init_lora_weights")


@dataclass
class TrainableAdapter:
    """An adapter on the session's model, ready to be trained.

    Attributes:
        loaded: The session's model; holds the adapter until `rollback`.
        name: Of the adapter.
        continued: Whether it was there before and goes on.
    """

    loaded: LoadedModel
    name: str
    continued: bool
    _wrapped: bool
    _active_before: str | None
    _before: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def model(self) -> PeftModel:
        """The model with the adapter."""
        return self.loaded.model

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """The weights that change."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def settings(self) -> dict[str, str]:
        """What the adapter is like, for people."""
        lora = self.model.peft_config[self.name]
        shown = {"lora_r" if key == "r" else key: plain_setting(getattr(lora, key)) for key in _SHOWN}
        # PEFT lists every layer: what kinds of layers they are says as much.
        shown["target_modules"] = ", ".join(sorted({name.rpartition(".")[2] for name in lora.target_modules}))
        return shown

    def save(self, folder: Path, emit: Callable[[Notice], None], *, resumed: bool) -> None:
        """Save it as a PEFT folder.

        Args:
            folder: Made if it is not there.
            emit: Is told where an adapter that an earlier run saved there is kept.
            resumed: The run was one that goes on: what is there is its own.

        Raises:
            StorageError: It cannot be written.
            OSError: Likewise.
        """
        if not self.continued and not resumed:
            aside = set_aside_adapter(folder)
            if aside is not None:
                emit(Notice(f"The adapter that an earlier run saved here is kept in {aside}.", topic="superseded"))
        self.loaded.sources[self.name] = save_adapter(self.loaded, folder, name=self.name)

    def commit(self) -> None:
        """Keep the adapter: it is what the session chats with from now on. Its weights are frozen."""
        for parameter in self.parameters().values():
            parameter.grad = None
        use_adapter(self.loaded, self.name)

    def rollback(self) -> None:
        """Put the session's model back to what it was before `attach`."""
        if self.continued:
            parameters = self.parameters()
            with torch.no_grad():
                for name, before in self._before.items():
                    parameters[name].copy_(before)
                    parameters[name].grad = None
        elif self._wrapped:
            self.loaded.model = self.model.unload()
        else:
            _delete(self.loaded, self.name)
        use_adapter(self.loaded, self._active_before)


def attach(loaded: LoadedModel, name: str, settings: LoraConfig, given: Mapping[str, Any]) -> TrainableAdapter:
    """Put a trainable adapter on the session's model.

    An adapter of that name goes on; else a new one is made beside the others, on the bare base. Its weights are float32
    from the start: TRL would cast them to bfloat16 on a quantised model, and a resumed run would differ. A quantised
    base needs no further preparation here: PEFT's ``prepare_model_for_kbit_training`` would cast embeddings and head to
    float32, which only costs memory.

    Args:
        loaded: The session's model; its ``model`` becomes a ``PeftModel``.
        name: Of the adapter.
        settings: For a new adapter.
        given: The LoRA settings that the user wrote down, to be held against an adapter that goes on.

    Returns:
        The adapter.

    Raises:
        ConfigError: Settings that do not fit the model, or that an existing adapter does not have.
        TrainingError: The model cannot be trained.
    """
    model = loaded.model
    active = loaded.info.adapter
    if name in "lora_":  # PEFT could not tell it from the names of the weights when it loads the adapter
        raise ConfigError(f"An adapter cannot be called {name!r}.", hint="Give it a longer name.")
    if str(settings.init_lora_weights).startswith(_CHANGE_THE_BASE):
        raise ConfigError(
            f"init_lora_weights: {settings.init_lora_weights} changes the weights of the base, "
            "which other adapters share.",
            hint="Leave it out; use_dora and use_rslora leave the base alone.",
        )
    if isinstance(model, PeftModel) and name in model.peft_config:
        _refuse_changes(name, model.peft_config[name], settings, given)
        model.base_model.enable_adapter_layers()
        model.set_adapter(name)
        adapter = TrainableAdapter(loaded, name, continued=True, _wrapped=False, _active_before=active)
    else:
        adapter = TrainableAdapter(
            loaded, name, continued=False, _wrapped=not isinstance(model, PeftModel), _active_before=active
        )
        try:
            if isinstance(model, PeftModel):
                model.add_adapter(name, settings)
                model.base_model.enable_adapter_layers()
                model.set_adapter(name)
            else:
                loaded.model = get_peft_model(model, settings, adapter_name=name)
        except (ValueError, NotImplementedError, TypeError) as err:
            _delete(loaded, name)
            use_adapter(loaded, active)
            reason = str(err).strip().split("\n", 1)[0]
            raise ConfigError(
                f"This adapter does not fit the model: {reason}", hint="Check lora: target_modules."
            ) from err
    for parameter in adapter.parameters().values():
        parameter.data = parameter.data.float()
    if not adapter.parameters():
        adapter.rollback()
        raise TrainingError("The adapter has no trainable weights.", hint="Check lora: target_modules.")
    if adapter.continued:
        adapter._before = {n: p.detach().to("cpu", copy=True) for n, p in adapter.parameters().items()}
    return adapter


def count_parameters(model: torch.nn.Module) -> int:
    """Weights that change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _delete(loaded: LoadedModel, name: str) -> None:
    """Take a new adapter away again, also after it could not be put on completely."""
    model = loaded.model
    if isinstance(model, PeftModel) and name in model.peft_config:
        others = [other for other in model.peft_config if other != name]
        model.set_adapter(others[0], inference_mode=True)  # PEFT warns when the active one goes
        model.delete_adapter(name)


def _refuse_changes(name: str, existing: Any, settings: LoraConfig, given: Mapping[str, Any]) -> None:
    for key in given:
        old, new = getattr(existing, key, None), getattr(settings, key)
        # "all-linear" is replaced by the names of the layers once it is applied.
        if key == "target_modules" and given[key] == "all-linear":
            continue
        if old != new:
            raise ConfigError(
                f"The adapter {name!r} exists with {key}={old!r} and goes on as it is; {new!r} cannot be applied.",
                hint="Leave the setting out to go on training it, or give the new adapter another name.",
            )
