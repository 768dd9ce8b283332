"""Which weight files a model folder has, and which it should have."""

from __future__ import annotations

import json
from pathlib import Path

INDEX = "model.safetensors.index.json"
OTHER_WEIGHTS = (".gguf", ".bin", ".pt", ".pth")
"""Suffixes of weights that are not read from a folder: to say why it cannot be used."""


def missing_weights(folder: Path) -> str | None:
    """The first weight file that a model folder lacks.

    Args:
        folder: A saved Transformers model, or what a download has left of one.

    Returns:
        Its name; ``None`` if all are there.
    """
    try:
        shards = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no index, or none that can be read
        shards = set()
    if shards:
        return next((name for name in sorted(shards) if not (folder / name).is_file()), None)
    return None if any(folder.glob("*.safetensors")) else "model.safetensors"


def why_unusable(place: str, names: list[str]) -> tuple[str, str]:
    """Message and hint for a folder or repository without safetensors weights.

    Args:
        place: What it is called.
        names: Its files.

    Returns:
        What is there instead, and what can be done.
    """
    other = next((name for suffix in OTHER_WEIGHTS for name in names if name.endswith(suffix)), None)
    if other is None:
        return f"{place} has no safetensors weights.", ""
    message = f"{place} has no safetensors weights, only {other}."
    if other.endswith(".gguf"):
        return message, "Give the path of that file itself."
    return message, "Pickle files can run any code and are not loaded; look for a copy of the model in safetensors."
