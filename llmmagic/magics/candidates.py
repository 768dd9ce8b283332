"""What could be meant: model names, files, adapters and variables, for completion. Looks, and never loads anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmmagic.core.training.collected import NAMES as COLLECTED
from llmmagic.magics.sources import is_data

BUILT_IN_MODELS = ("demo", "tiny-random")
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".txt")
_MOST = 200  # entries of one folder


def models(prefix: str) -> Iterator[str]:
    """Built-in names, models in the Hub cache, folders and ``.gguf`` files."""
    yield from _starting(prefix, (*BUILT_IN_MODELS, *_cached_models()))
    yield from paths(prefix, lambda file: file.suffix == ".gguf")


def adapters(prefix: str) -> Iterator[str]:
    """Folders."""
    return paths(prefix, lambda file: False)


def data(prefix: str, variables: Mapping[str, Any]) -> Iterator[str]:
    """Variables that hold rows, what was collected in chats, data files and folders."""
    yield from _starting(prefix, (name for name in variables if is_data(name, variables)))
    yield from _starting(prefix, COLLECTED)
    yield from paths(prefix, lambda file: file.suffix in DATA_SUFFIXES)


def paths(prefix: str, wanted: Callable[[Path], bool]) -> Iterator[str]:
    """Folders, with a slash behind, and the files that are wanted.

    Args:
        prefix: What the user has written of the path.
        wanted: Whether a file is offered.

    Yields:
        Whole paths, written the way the user began.
    """
    cut = max(prefix.rfind("/"), prefix.rfind(os.sep)) + 1
    written, beginning = prefix[:cut], prefix[cut:]
    try:
        with os.scandir(Path(written or ".").expanduser()) as entries:
            for entry in sorted(_first(entries, _MOST), key=lambda entry: entry.name):
                if not entry.name.startswith(beginning) or (entry.name.startswith(".") and not beginning):
                    continue
                if entry.is_dir():
                    yield f"{written}{entry.name}/"
                elif wanted(Path(entry.name)):
                    yield f"{written}{entry.name}"
    except OSError:  # no such folder, or not ours to read: nothing to offer
        return


def _cached_models() -> Iterator[str]:
    """Model ids in the Hub cache, which names folders ``models--org--name``."""
    home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    try:
        names = sorted(entry.name for entry in os.scandir(cache) if entry.name.startswith("models--"))
    except OSError:  # nothing was ever downloaded
        return
    for name in names:
        yield name.removeprefix("models--").replace("--", "/", 1)


def _starting(prefix: str, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if name.startswith(prefix))


def _first(entries: Iterable[os.DirEntry[str]], most: int) -> Iterator[os.DirEntry[str]]:
    for _, entry in zip(range(most), entries, strict=False):
        yield entry
