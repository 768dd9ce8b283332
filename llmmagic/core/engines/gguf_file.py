"""The GGUF file that llama.cpp reads: as it is, or converted once from a Transformers folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from llmmagic.core.config import LoadConfig
from llmmagic.core.engines.gguf_convert import convert_once
from llmmagic.core.errors import ConfigError, ModelLoadError
from llmmagic.core.events import Choice, Parity
from llmmagic.core.export.source import ExportSource
from llmmagic.core.models.cache import Emit
from llmmagic.core.models.gguf import convert_gguf_tokenizer
from llmmagic.core.models.names import parse_name
from llmmagic.core.models.resolve import ResolvedAdapter, ResolvedModel, resolve, resolve_adapter
from llmmagic.core.models.tokenizer import remote_code_error
from llmmagic.core.operation import CancelToken


@dataclass(frozen=True, slots=True)
class GGUFModel:
    """What llama.cpp needs.

    Attributes:
        file: The weights.
        folder: With the tokenizer, its chat template, and for some models a ``generation_config.json``.
        converted: Whether the file was made here from a Transformers folder.
        adapter: Name of the adapter that is merged in, if any.
        parity: How near it is to what it was made of, if that was measured.
        choices: What ``auto`` decided about the file.
    """

    file: Path
    folder: Path
    converted: bool
    adapter: str | None = None
    parity: Parity | None = None
    choices: tuple[Choice, ...] = ()


def find_gguf(config: LoadConfig, *, emit: Emit, cancel: CancelToken) -> GGUFModel:
    """Find a model and convert it if it is no GGUF file, its adapter merged in first.

    Args:
        config: Which model, which adapter, which type of file.
        emit: Gets the progress.
        cancel: Ends a download or a conversion.

    Returns:
        File and folder, both on this machine.

    Raises:
        ModelNotFoundError: No such model.
        ModelLoadError: A model that cannot be converted.
        AdapterError: An adapter that does not fit.
        ConfigError: Settings that do not go together.
        NetworkError: It would have to be downloaded and cannot.
        RemoteCodeError: The model comes with code of its own.
        StorageError: No space for it.
        CancelledOperation: Cancelled; nothing half-made is left.
    """
    name = parse_name(config.model_id, revision=config.revision)
    if name.kind == "gguf" and name.path is not None and config.adapter is None:
        if config.gguf_type != "auto":
            raise ConfigError(
                f"{config.model_id} is a GGUF file already: it is taken as it is, not as {config.gguf_type}.",
                hint="Leave gguf_type out.",
            )
        return GGUFModel(name.path, convert_gguf_tokenizer(name.path, emit=emit, cancel=cancel), converted=False)
    base = resolve(config.model_id, revision=config.revision, code=config.trust_remote_code, emit=emit, cancel=cancel)
    adapter = base.adapter
    if config.adapter is not None:
        adapter = resolve_adapter(config.adapter, emit=emit, cancel=cancel)
    return convert_resolved(config, base, adapter, emit=emit, cancel=cancel)


def convert_resolved(
    config: LoadConfig, base: ResolvedModel, adapter: ResolvedAdapter | None, *, emit: Emit, cancel: CancelToken
) -> GGUFModel:
    """Convert a model that was found.

    Args:
        config: Which type of file, and whether the model's own code may run.
        base: The base model.
        adapter: Goes on top, if any.
        emit: Gets the progress.
        cancel: Ends it.

    Returns:
        As `find_gguf`.

    Raises:
        LLMMagicError: As `find_gguf`.
    """
    if not config.trust_remote_code and _names_code(base.folder):  # the converter would run it without asking
        raise remote_code_error(config.model_id)
    source = ExportSource.of(config.model_id, base, adapter, trust_remote_code=config.trust_remote_code)
    made = convert_once(source, config.gguf_type, force=config.force, emit=emit, cancel=cancel)
    name = None if adapter is None else adapter.name
    return GGUFModel(made.file, base.folder, converted=True, adapter=name, parity=made.parity, choices=made.choices)


def _names_code(folder: Path) -> bool:
    """Whether a model folder wants Python code to be run, its own or another repository's."""
    for name in ("config.json", "tokenizer_config.json"):
        try:
            if "auto_map" in json.loads((folder / name).read_text(encoding="utf-8")):
                return True
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as err:
            raise ModelLoadError(f"{name} in {str(folder)!r} cannot be read: {err}") from err
    return False
