"""The folder of what can be made again: converted, downloaded and quantised models.

An entry is a folder that appears at once and whole: it is written beside its place under a lock that other processes
respect, and renamed when complete. So a killed conversion leaves nothing that could be taken for a model, and two
notebooks that want the same entry make it once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llmmagic.core.config import CACHE_ENV, CACHE_LIMIT_ENV, cache_dir, cache_limit_bytes
from llmmagic.core.errors import StorageError
from llmmagic.core.events import LoadEvent, Notice
from llmmagic.core.models.entries import MANIFEST, mark_used, prune, remove
from llmmagic.core.operation import CancelToken

Emit = Callable[[LoadEvent], None]

_LOCK_POLL_S = 0.2
_SPARE_BYTES = 64 * 2**20
"""What stays free on the disk: a completely full disk breaks other programs."""
_EDGE_BYTES = 2**20
_STORAGE_NAMES = ("ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EFBIG", "ENOTDIR", "EEXIST")
STORAGE_ERRNOS = frozenset(getattr(errno, name) for name in _STORAGE_NAMES if hasattr(errno, name))
"""What the system says when a folder cannot be written; not every system has all of them."""


def entry_path(kind: str, key: str) -> Path:
    """Where an entry is or would be."""
    return cache_dir() / kind / key


def find_entry(kind: str, key: str) -> Path | None:
    """The entry, if it is there and whole.

    Args:
        kind: Subfolder of the cache: ``"gguf"``, ``"quantized"``.
        key: Name of the entry; says everything its content depends on.

    Returns:
        Its folder, or ``None``.
    """
    path = entry_path(kind, key)
    try:
        sizes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        whole = all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return None
    if not whole:
        return None
    mark_used(path)
    return path


def make_entry(
    kind: str, key: str, build: Callable[[Path], None], *, needed_bytes: int, emit: Emit, cancel: CancelToken
) -> Path:
    """Find an entry or make it.

    Args:
        kind: Subfolder of the cache.
        key: Name of the entry.
        build: Fills an empty folder; whatever it raises leaves no entry behind.
        needed_bytes: Disk space that it will take, about.
        emit: Told when another process is waited for.
        cancel: Checked while waiting.

    Returns:
        Folder of the complete entry.

    Raises:
        ConfigError: The cache's limit is no number.
        StorageError: No space left, or the cache folder cannot be written.
        CancelledOperation: Cancelled while waiting for another process.
    """
    found = find_entry(kind, key)
    if found is not None:
        return found
    limit = cache_limit_bytes()
    path = entry_path(kind, key)
    with _storage_errors(path), _locked(path, emit, cancel):
        found = find_entry(kind, key)  # another process may have made it while this one waited
        if found is not None:
            return found
        remove(path)
        for left_over in path.parent.glob(
            f".{key}.*.partial"
        ):  # of a killed process: the lock says nobody else is here
            remove(left_over)
        _check_space(path.parent, needed_bytes)
        partial = path.parent / f".{key}.{os.getpid()}.partial"
        partial.mkdir()
        try:
            build(partial)
            sizes = {file.relative_to(partial).as_posix(): file.stat().st_size for file in _files(partial)}
            (partial / MANIFEST).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
            partial.replace(path)
        finally:
            remove(partial)
    mark_used(path)
    if limit is not None and (gone := prune(limit)):
        size = sum(entry.size_bytes for entry in gone)
        text = f"Taken out of the cache, to stay within {CACHE_LIMIT_ENV}: {len(gone)} unused, {size / 1e6:,.2f} MB."
        emit(Notice(text, topic="cache-limit"))
    return path


def drop_entry(kind: str, key: str) -> None:
    """Take an entry away, because it turned out to be damaged."""
    remove(entry_path(kind, key))


def fingerprint_file(path: Path) -> str:
    """A short name for a file's content: its size, time and both ends, not the gigabytes between.

    Args:
        path: A large file.

    Returns:
        16 hexadecimal digits; other ones as soon as the file is written again.
    """
    return hashlib.sha256(f"{path.stat().st_mtime_ns} {_sample(path)}".encode()).hexdigest()[:16]


def fingerprint_folder(folder: Path) -> str:
    """A short name for the weights and the config of a model folder.

    Args:
        folder: A saved Transformers model.

    Returns:
        16 hexadecimal digits; other ones as soon as a weight file is written again or the config changes.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"{file.name} {fingerprint_file(file)} ".encode())
    return digest.hexdigest()[:16]


def fingerprint_weights(folder: Path) -> str:
    """A short name for the weights of a model folder that a copy of the folder has too.

    Args:
        folder: A saved Transformers model.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(_sample(file).encode())
    return digest.hexdigest()[:16]


def _sample(path: Path) -> str:
    """Hash of a file's size and of a mebibyte at each end."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size} ".encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE_BYTES))
        file.seek(max(0, size - _EDGE_BYTES))
        digest.update(file.read())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path, emit: Emit, cancel: CancelToken) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(path.with_name(f"{path.name}.lock")))
    told = False
    while True:
        cancel.check()
        try:
            lock.acquire(timeout=_LOCK_POLL_S)
            break
        except Timeout:
            if not told:
                emit(Notice("Another process is preparing this model; waiting for it.", topic="cache-lock"))
                told = True
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        if err.errno not in STORAGE_ERRNOS:
            raise
        raise StorageError(
            f"The cache folder {str(path.parent)!r} cannot be written: {err.strerror or err}.",
            hint=f"Free some space, or set {CACHE_ENV} to a folder on another disk.",
        ) from err


def _check_space(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + _SPARE_BYTES:
        raise StorageError(
            f"No space left for the cache: {needed_bytes / 1e6:,.0f} MB are needed in {str(folder)!r}, "
            f"{free / 1e6:,.0f} MB are free.",
            hint=f"Free some space, or set {CACHE_ENV} to a folder on another disk.",
        )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
