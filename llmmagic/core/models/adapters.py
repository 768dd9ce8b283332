"""Adapters on the loaded model: put on, switch, save.

An adapter is only right on the base model it was made on, and on another one it fits by shape more often than not. So
the base's name and a fingerprint of its weights are kept with it and compared.
"""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmmagic.core.errors import AdapterError, StorageError, did_you_mean
from llmmagic.core.models.cache import fingerprint_weights
from llmmagic.core.models.demo import HUB_ID, public_name
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.models.names import DEMO
from llmmagic.core.models.progress import quiet_libraries
from llmmagic.core.models.resolve import ADAPTER_WEIGHTS, RECORD, ResolvedAdapter, resolve_adapter
from llmmagic.core.models.tokenizer import first_line
from llmmagic.core.operation import CancelToken

if TYPE_CHECKING:
    from torch import nn

_PREFIX = "base_model.model."


def attach_adapter(loaded: LoadedModel, source: str | Path | ResolvedAdapter, *, name: str | None = None) -> str:
    """Put an adapter on the model and switch to it.

    Args:
        loaded: The model; its ``model`` and ``info`` change. After an error they are as they were.
        source: A PEFT folder, a Hub id (``org/name[@revision]``), or an adapter that was found before.
        name: What to call it; by default the folder's name.

    Returns:
        Its name.

    Raises:
        AdapterError: It is broken, belongs to another base model, or the name is taken by another adapter.
        ModelNotFoundError: Nothing is there.
        NetworkError: It would have to be downloaded and cannot.
    """
    if isinstance(source, ResolvedAdapter):
        adapter = source
    else:
        adapter = resolve_adapter(str(source), emit=lambda event: None, cancel=CancelToken())
    name = name or adapter.name
    if name in loaded.info.adapters and loaded.sources.get(name) != adapter.folder:
        raise AdapterError(f"There is an adapter named {name!r} already.", hint="Give this one another name.")
    _check_base(loaded, adapter)
    _check_shapes(loaded.model, adapter)
    if name in loaded.info.adapters:  # the same one again: its files may have changed
        _remove(loaded, name)
    before = loaded.info.adapter
    try:
        with quiet_libraries():
            _load(loaded, adapter, name)
    except (ValueError, RuntimeError, KeyError, TypeError, OSError) as err:  # PEFT has no errors of its own
        use_adapter(loaded, before if before != name else None)
        raise AdapterError(f"The adapter {adapter.name!r} cannot be put on the model: {first_line(err)}.") from err
    loaded.sources[name] = adapter.folder
    use_adapter(loaded, name)
    return name


def use_adapter(loaded: LoadedModel, name: str | None) -> None:
    """Switch to another adapter, or to the bare model.

    Args:
        loaded: The model; its ``info`` changes.
        name: One of ``info.adapters``; ``None`` for the bare model, which is then bit-equal to one without adapters.

    Raises:
        AdapterError: There is no adapter of that name.
    """
    from peft import PeftModel

    model = loaded.model
    names = tuple(model.peft_config) if isinstance(model, PeftModel) else ()
    if name is None:
        if names:
            model.base_model.disable_adapter_layers()
    elif name not in names:
        have = f"Loaded: {', '.join(names)}." if names else "None is loaded."
        raise AdapterError(f"There is no adapter {name!r}.", hint=did_you_mean(name, names) or have)
    else:
        model.base_model.enable_adapter_layers()
        model.set_adapter(name)
        model.requires_grad_(False)  # set_adapter makes the chosen one trainable
    loaded.info = replace(loaded.info, adapter=name, adapters=names)


def save_adapter(loaded: LoadedModel, folder: str | Path, *, name: str | None = None) -> Path:
    """Write an adapter as a PEFT folder that can be loaded by itself: it says which base it is for.

    Args:
        loaded: The model with the adapter on it.
        folder: Made if it is not there; an adapter that is in it is replaced.
        name: Which adapter; by default the active one, or the only one.

    Returns:
        The folder.

    Raises:
        AdapterError: No such adapter.
        StorageError: The folder cannot be written.
    """
    from peft import PeftModel

    model = loaded.model
    names = tuple(model.peft_config) if isinstance(model, PeftModel) else ()
    if name is None:
        name = loaded.info.adapter or (names[0] if len(names) == 1 else None)
    if name is None or name not in names:
        asked = "There is no adapter to save" if name is None else f"There is no adapter {name!r}"
        have = f"Loaded: {', '.join(names)}." if names else "Train one first, or load one."
        raise AdapterError(f"{asked}.", hint=have)
    target = Path(folder).expanduser()
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Written beside and moved file by file: an interrupted save leaves the old adapter readable.
        with tempfile.TemporaryDirectory(dir=target, prefix=".saving-") as temp:
            _write(loaded, name, Path(temp))
            for file in sorted(Path(temp).iterdir()):
                file.replace(target / file.name)
    except OSError as err:
        raise StorageError(f"The adapter cannot be written to {str(target)!r}: {err.strerror or err}.") from err
    return target


def _write(loaded: LoadedModel, name: str, folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    # False: "auto" asks the Hub whether the vocabulary grew, and here it never does.
    base = loaded.base_id or loaded.config.model_id
    state = get_peft_model_state_dict(loaded.model, adapter_name=name, save_embedding_layers=False)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    save_file(tensors, str(folder / ADAPTER_WEIGHTS), metadata={"format": "pt"})
    config = copy.copy(loaded.model.peft_config[name])
    config.inference_mode = True
    config.base_model_name_or_path = public_name(base)
    config.revision = loaded.base_revision
    config.save_pretrained(folder)
    record = {
        "base": base,
        "revision": loaded.base_revision if base != DEMO else None,
        "weights": None if loaded.folder is None else fingerprint_weights(loaded.folder),
        "quantization": loaded.info.quantization,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _load(loaded: LoadedModel, adapter: ResolvedAdapter, name: str) -> None:
    import torch
    from peft import PeftConfig, PeftModel

    model = loaded.model
    config = PeftConfig.from_pretrained(str(adapter.folder))
    config.inference_mode = True
    wrapped = model if isinstance(model, PeftModel) else None
    try:
        if wrapped is None:
            wrapped = PeftModel(model, config, name)
        # Without a device PEFT takes the first GPU it sees, wherever the model is.
        wrapped.load_adapter(str(adapter.folder), name, torch_device=str(model.device), is_trainable=False)
    except BaseException:
        if wrapped is not None and wrapped is not model:
            wrapped.unload()
        elif wrapped is not None and name in wrapped.peft_config:
            wrapped.delete_adapter(name)
        raise
    for key, weight in wrapped.named_parameters():
        if f".{name}." in key and weight.is_floating_point():
            weight.data = weight.data.to(torch.float32)
    loaded.model = wrapped.eval()


def _remove(loaded: LoadedModel, name: str) -> None:
    others = [other for other in loaded.model.peft_config if other != name]
    if others:
        loaded.model.set_adapter(others[0])  # PEFT warns when the active one goes
        loaded.model.delete_adapter(name)
    else:
        loaded.model = loaded.model.unload()


def _check_base(loaded: LoadedModel, adapter: ResolvedAdapter) -> None:
    """By name or by fingerprint; an adapter that says neither is judged by its shapes alone."""
    if adapter.weights is not None and loaded.folder is not None:
        if adapter.weights == fingerprint_weights(loaded.folder):
            return
    elif not adapter.base:
        return
    base, here = _alias(adapter.base), _alias(loaded.base_id or loaded.config.model_id)
    is_folder = Path(here).is_absolute()
    if base.lower() == here.lower() and (adapter.weights is None or not is_folder):
        return
    if adapter.weights is None and Path(base).is_absolute() and not Path(base).exists():
        return  # made elsewhere, in a folder that cannot be compared
    raise AdapterError(
        f"The adapter {adapter.name!r} was made on {adapter.base}, not on {loaded.info.model_id}.",
        hint=f"Load {adapter.base} first.",
    )


def _alias(base: str) -> str:
    if base.lower() == HUB_ID.lower():
        return DEMO
    path = Path(base).expanduser()
    return str(path.resolve()) if path.exists() and base != DEMO else base


def _check_shapes(model: nn.Module, adapter: ResolvedAdapter) -> None:
    """Compare the adapter's matrices with the layers they go on, before anything is changed.

    ``lora_A`` is (r, in_features), ``lora_B`` is (out_features, r) (arXiv:2106.09685).
    """
    from safetensors import SafetensorError, safe_open

    layers: dict[str, Any] = {}
    for key, module in model.named_modules():
        layers[key.removeprefix(_PREFIX).replace(".base_layer", "")] = module
    try:
        with safe_open(str(adapter.folder / ADAPTER_WEIGHTS), framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as err:
        raise AdapterError(f"The weights of the adapter {adapter.name!r} cannot be read: {first_line(err)}.") from err
    for key, shape in shapes.items():
        path, _, rest = key.removeprefix(_PREFIX).partition(".lora_")
        side = rest.partition(".")[0]
        if side not in ("A", "B"):
            continue
        layer = layers.get(path)
        if layer is None:
            raise AdapterError(
                f"The adapter {adapter.name!r} changes {path!r}, which this model does not have.",
                hint=f"It was made on {adapter.base}." if adapter.base else "",
            )
        size = getattr(layer, "in_features" if side == "A" else "out_features", None)
        given = shape[1] if side == "A" else shape[0]
        if size is not None and size != given:
            raise AdapterError(
                f"The adapter {adapter.name!r} does not fit: {path!r} has size {size} here and {given} in its base.",
                hint=f"It was made on {adapter.base}." if adapter.base else "",
            )
