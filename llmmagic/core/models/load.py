"""A model name -> weights on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import ModelLoadError, ModelMemoryError, StorageError
from llmmagic.core.events import Choice, LoadProgress, ModelInfo, Notice
from llmmagic.core.models.adapters import attach_adapter
from llmmagic.core.models.cache import Emit, drop_entry, make_entry
from llmmagic.core.models.demo import public_name
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.models.memory import free_memory_bytes, outside_the_heap
from llmmagic.core.models.plan import LoadPlan, prepare
from llmmagic.core.models.progress import library_bars, quiet_libraries
from llmmagic.core.models.quantize import QUANTIZED, SCHEMES, quantization_config, settle_layers
from llmmagic.core.models.tokenizer import first_line, load_tokenizer, remote_code_error, repair_tokenizer
from llmmagic.core.operation import CancelToken

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LoadPlan", "LoadedModel", "load_model", "prepare"]


def load_model(plan: LoadPlan, *, emit: Emit, cancel: CancelToken) -> LoadedModel:
    """Load what was planned.

    Args:
        plan: From `prepare`.
        emit: Gets progress and notices.
        cancel: Checked at every tensor.

    Returns:
        The model with its adapters on, in evaluation mode.

    Raises:
        ModelMemoryError: It does not fit into the memory that is free now.
        ModelLoadError: The files are broken, or not for this model.
        AdapterError: An adapter that does not fit.
        CancelledOperation: Cancelled; nothing is left in memory.
    """
    plan.require(free_memory_bytes(plan.device))
    with quiet_libraries(), outside_the_heap():
        tokenizer = load_tokenizer(plan.resolved.folder, trust_remote_code=plan.config.trust_remote_code)
        cancel.check()
        if plan.quantized is None:
            model, from_cache = _read_weights(plan, plan.resolved.folder, emit=emit, cancel=cancel), False
        else:
            model, from_cache = _quantized_weights(plan, plan.quantized, emit=emit, cancel=cancel)
        choices, copy_bytes = _settle(plan, model)
    repair_tokenizer(tokenizer, model, context_window=plan.context_window, emit=emit)
    loaded = LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        info=_info(
            plan,
            model,
            memory_bytes=model.get_memory_footprint() + copy_bytes,
            choices=(*plan.choices, *choices),
            from_cache=from_cache,
            chat_template=bool(tokenizer.chat_template),
        ),
        config=plan.config,
        folder=plan.resolved.folder,
        base_id=plan.resolved.base_id,
        base_revision=plan.resolved.commit,
    )
    for number, adapter in enumerate(plan.adapters):
        cancel.check()
        emit(LoadProgress("adapter", number, len(plan.adapters), "steps", adapter.name))
        attach_adapter(loaded, adapter)
        emit(LoadProgress("adapter", number + 1, len(plan.adapters), "steps", adapter.name))
    return loaded


def _settle(plan: LoadPlan, model: PreTrainedModel) -> tuple[tuple[Choice, ...], int]:
    """Make 4-bit layers compute as planned.

    Returns:
        What ``auto`` decided about dense copies, and the memory that these will take.
    """
    if plan.placement.quantization not in SCHEMES:
        return (), 0
    settle_layers(model, plan.placement.dtype)
    if plan.device != "cpu" or plan.placement.quantization not in ("nf4", "fp4"):
        return (), 0
    from llmmagic.core.models.dense import keep_dense_copies

    return keep_dense_copies(model, plan.config.dense_copy, free_bytes=free_memory_bytes(plan.device))


def _quantized_weights(plan: LoadPlan, key: str, *, emit: Emit, cancel: CancelToken) -> tuple[PreTrainedModel, bool]:
    """The quantised model, and whether it came from the cache. If not, it is there for the next load.

    Quantising happens under the entry's lock: of two processes that load the same model one does it, the other waits.
    """
    made: list[PreTrainedModel] = []

    def build(folder: Path) -> None:
        made.append(_read_weights(plan, plan.resolved.folder, quantize=True, emit=emit, cancel=cancel))
        with library_bars("save", emit=emit, cancel=cancel):
            made[0].save_pretrained(folder)

    try:
        entry = make_entry(QUANTIZED, key, build, needed_bytes=plan.memory_bytes, emit=emit, cancel=cancel)
    except StorageError as err:  # that it cannot be kept is no reason to fail
        text = f"The quantised model is not kept for the next load. {err}"
        emit(Notice(text, level="warning", topic="quantized-cache"))
        if not made:
            made.append(_read_weights(plan, plan.resolved.folder, quantize=True, emit=emit, cancel=cancel))
        return made[0], False
    if made:
        return made[0], False
    try:
        return _read_weights(plan, entry, emit=emit, cancel=cancel), True
    except ModelLoadError:
        drop_entry(QUANTIZED, key)  # damaged on the disk
        return _quantized_weights(plan, key, emit=emit, cancel=cancel)


def _read_weights(
    plan: LoadPlan, folder: Path, *, quantize: bool = False, emit: Emit, cancel: CancelToken
) -> PreTrainedModel:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {
        "dtype": getattr(torch, plan.placement.dtype),
        "device_map": {"": plan.device},
        "use_safetensors": True,
        "trust_remote_code": plan.config.trust_remote_code,
        "output_loading_info": True,
    }
    if quantize:
        options["quantization_config"] = quantization_config(plan.placement.quantization, plan.placement.dtype)
    try:
        with library_bars("quantize" if quantize else "weights", emit=emit, cancel=cancel):
            model, report = AutoModelForCausalLM.from_pretrained(folder, **options)
    except (torch.OutOfMemoryError, MemoryError) as err:
        raise ModelMemoryError(
            f"Memory ran out while loading {plan.config.model_id}.", hint="Use quantization=nf4, or a smaller model."
        ) from err
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as err:
        # transformers has no error of its own for files that are broken or need something that is not installed.
        if "trust_remote_code" in str(err):
            raise remote_code_error(plan.config.model_id) from err
        raise ModelLoadError(f"{plan.config.model_id} cannot be loaded: {first_line(err)}.") from err
    _check_report(plan, report)
    # PEFT writes this name into adapters: that of the model, not of a folder in the cache.
    model.name_or_path = model.config.name_or_path = public_name(plan.resolved.base_id)
    loaded: PreTrainedModel = model
    return loaded


def _check_report(plan: LoadPlan, report: dict[str, Any]) -> None:
    """Refuse a model that transformers would fill up with random weights."""
    missing = sorted(report.get("missing_keys") or ())
    if missing:
        raise ModelLoadError(
            f"The weights of {plan.config.model_id} are incomplete: {len(missing)} tensors are missing, "
            f"{missing[0]!r} for instance.",
            hint="Download or save the model again.",
        )
    mismatched = sorted(str(item[0]) for item in report.get("mismatched_keys") or ())
    if mismatched:
        raise ModelLoadError(f"The weights of {plan.config.model_id} do not fit its config: {mismatched[0]!r}.")


def _info(
    plan: LoadPlan,
    model: PreTrainedModel,
    *,
    memory_bytes: int,
    choices: tuple[Choice, ...],
    from_cache: bool,
    chat_template: bool,
) -> ModelInfo:
    text_config = model.config.get_text_config()
    return ModelInfo(
        model_id=plan.config.model_id,
        revision=plan.resolved.name.revision,
        engine="transformers",
        architecture=type(model).__name__,
        parameters=plan.estimate.parameters,
        layers=text_config.num_hidden_layers,
        hidden_size=text_config.hidden_size,
        vocab_size=text_config.vocab_size,
        quantization=plan.placement.quantization,
        dtype=plan.placement.dtype,
        device=plan.device,
        context_window=plan.context_window,
        memory_bytes=memory_bytes,
        choices=choices,
        from_cache=from_cache,
        chat_template=chat_template,
    )
