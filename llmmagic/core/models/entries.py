"""What is in the cache folder: its entries, how large they are, and which of them nobody has used for longest."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmmagic.core.config import cache_dir

MANIFEST = "llmmagic-entry.json"
_IN_USE_S = 24 * 3600.0
"""An entry that any process has used since then stays: its model may be loaded, and be exported or saved from there."""
_mine: set[Path] = set()  # what this process uses, however long it runs


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A model in the cache.

    Attributes:
        path: Its folder.
        size_bytes: Of its files.
        used: When it was last looked for, in seconds since the epoch.
    """

    path: Path
    size_bytes: int
    used: float

    @property
    def in_use(self) -> bool:
        """Whether somebody may need it now."""
        return self.path in _mine or time.time() - self.used < _IN_USE_S


def mark_used(path: Path) -> None:
    """Note that an entry is used."""
    _mine.add(path)
    with suppress(OSError):  # a cache that can only be read
        os.utime(path / MANIFEST)


def cache_entries() -> list[CacheEntry]:
    """All entries, the one that nobody has used for longest first."""
    found = []
    for manifest in cache_dir().glob(f"*/*/{MANIFEST}"):
        with suppress(OSError, ValueError):  # another process takes it away right now
            size = sum(json.loads(manifest.read_text(encoding="utf-8")).values())
            found.append(CacheEntry(manifest.parent, size, manifest.stat().st_mtime))
    return sorted(found, key=lambda entry: entry.used)


def cache_size_bytes() -> int:
    """What all entries take up on the disk."""
    return sum(entry.size_bytes for entry in cache_entries())


def prune(limit_bytes: int) -> list[CacheEntry]:
    """Take entries away until the others fit into a limit; those that nobody has used for longest go first.

    Args:
        limit_bytes: For all together. What is in use stays, even if that is more.

    Returns:
        What is gone.
    """
    entries = cache_entries()
    total = sum(entry.size_bytes for entry in entries)
    gone = []
    for entry in entries:
        if total <= limit_bytes:
            break
        if entry.in_use:
            continue
        try:
            (entry.path / MANIFEST).unlink()  # first: what is left of a folder that cannot be removed is no entry
        except OSError:  # somebody else has done it, or may not be disturbed
            continue
        remove(entry.path)
        total -= entry.size_bytes
        gone.append(entry)
    return gone


def remove(path: Path) -> None:
    """Take a folder or a file away, as far as the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
