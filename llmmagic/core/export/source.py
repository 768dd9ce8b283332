"""What is converted or exported: a base model, and the adapter that is merged into it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmmagic.core.errors import AdapterError
from llmmagic.core.models.cache import fingerprint_folder
from llmmagic.core.models.names import ADAPTER_CONFIG
from llmmagic.core.models.resolve import ADAPTER_WEIGHTS, ResolvedAdapter, ResolvedModel

_CHUNK_BYTES = 2**20
# What an adapter's config says that changes nothing of what it computes.
_NAMES_ONLY = ("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping")


@dataclass(frozen=True, slots=True)
class ExportSource:
    """Weights that can be converted.

    Attributes:
        model_id: What the user calls it, for messages.
        base_id: A name that finds the base model from anywhere.
        revision: Version of the base on the Hub, if it is from there.
        folder: Transformers folder of the base, with its full weights.
        base_key: A name for the base's content.
        adapter: PEFT folder of the adapter that is merged in, if any.
        trust_remote_code: Whether code that comes with the base may run.
    """

    model_id: str
    base_id: str
    revision: str | None
    folder: Path
    base_key: str
    adapter: Path | None = None
    trust_remote_code: bool = False

    @classmethod
    def of(
        cls, model_id: str, base: ResolvedModel, adapter: ResolvedAdapter | None, *, trust_remote_code: bool
    ) -> ExportSource:
        """Of a model that was found by its name."""
        folder = None if adapter is None else adapter.folder
        return cls(model_id, base.base_id, base.commit, base.folder, base.source_key, folder, trust_remote_code)

    @property
    def key(self) -> str:
        """A name for the content of base and adapter: another one as soon as either changes."""
        return self.base_key if self.adapter is None else f"{self.base_key}-{fingerprint_adapter(self.adapter)}"


def folder_key(folder: Path, commit: str | None) -> str:
    """A name for the content of a base model, as `ResolvedModel.source_key` has it."""
    return commit or fingerprint_folder(folder)


def fingerprint_adapter(folder: Path) -> str:
    """A short name for what an adapter computes; when and where it was saved, and its name, have no part in it.

    Args:
        folder: A PEFT folder.

    Returns:
        16 hexadecimal digits.

    Raises:
        AdapterError: It cannot be read.
    """
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        known = {name: _settled(value) for name, value in config.items() if name not in _NAMES_ONLY}
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
        with (folder / ADAPTER_WEIGHTS).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except (OSError, ValueError, AttributeError) as err:
        raise AdapterError(f"The adapter in {str(folder)!r} cannot be read: {err}") from err
    return digest.hexdigest()[:16]


def _settled(value: Any) -> Any:
    """PEFT keeps ``target_modules`` as a set, and writes it down in another order each time."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return sorted(value)
    return value
