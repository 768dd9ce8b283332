"""How much memory there is, how much is in use, and giving it back."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LOADING_BYTES, _COMPUTING_BYTES = 2**18, 2**25

_CGROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.stat")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.stat"),
    ),
)
"""Limit, usage and details of a container's memory: cgroup version 2 and 1 (Linux, Documentation/admin-guide)."""


def process_memory_bytes(pid: int | None = None) -> int:
    """Resident memory of a process, this one by default; 0 if there is none of that id."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def device_memory_bytes(device: str) -> int:
    """Memory that this process holds on a GPU; 0 for the CPU."""
    torch = sys.modules.get("torch")  # whoever has not imported it has nothing there
    if torch is None:
        return 0
    if device.startswith("cuda"):
        return int(torch.cuda.memory_reserved(device))
    if device == "mps":
        return int(torch.mps.driver_allocated_memory())
    return 0


def free_memory_bytes(device: str = "cpu") -> int:
    """Memory that a model could take on a device, without pushing others out.

    Args:
        device: ``"cpu"``, ``"cuda:0"``, ``"mps"``.

    Returns:
        For the CPU the system's available memory, or what a container's limit leaves of it. For CUDA what the driver
        calls free, and what this process holds without using it.
    """
    if device.startswith("cuda"):
        import torch

        free, _total = torch.cuda.mem_get_info(device)
        return int(free) + int(torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    import psutil

    available = int(psutil.virtual_memory().available)
    for limit_file, usage_file, stat_file in _CGROUP_LIMITS:
        left = _cgroup_left(limit_file, usage_file, stat_file)
        if left is not None:
            return min(available, left)
    return available


def release_memory() -> None:
    """Give memory that nothing uses any more back to the system: Python's, the GPU's and the C library's."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None:
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def outside_the_heap() -> Iterator[None]:
    """Within it, glibc gives every larger tensor pages of its own, which go back to the system when it is freed.

    By itself it puts tensors of up to 32 MiB into its heap as soon as a few were freed. There they leave holes while a
    model is quantised, and up to 64 MiB of a freed model stay behind for each thread that loaded it. Afterwards the
    limits are those that it had come to (mallopt(3), M_MMAP_THRESHOLD), because computing wants its tensors reused.
    """
    mallopt = _c_function("mallopt")
    if mallopt is None or any("mmap_threshold" in name.lower() for name in _malloc_settings()):
        yield
        return
    mallopt(_M_MMAP_THRESHOLD, _LOADING_BYTES)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _COMPUTING_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _COMPUTING_BYTES)


def _malloc_settings() -> list[str]:
    """What the user has set for glibc's allocator: that holds."""
    return [name for name in os.environ if name.startswith("MALLOC_")] + [os.environ.get("GLIBC_TUNABLES", "")]


@cache
def _c_function(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library; ``None`` where it has none of that name, as on Windows and macOS."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)


def _cgroup_left(limit_file: Path, usage_file: Path, stat_file: Path) -> int | None:
    """What a container may still take: the limit less what is used and cannot be dropped."""
    try:
        limit = int(limit_file.read_text())
        usage = int(usage_file.read_text())
        stat = dict(line.split() for line in stat_file.read_text().splitlines())
    except (OSError, ValueError):  # no such control group, or "max": no limit
        return None
    droppable = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return max(0, limit - usage + droppable)
