"""The cache: entries appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from llmmagic.core.errors import ConfigError, StorageError
from llmmagic.core.events import Notice
from llmmagic.core.models import entries
from llmmagic.core.models.cache import find_entry, fingerprint_folder, fingerprint_weights, make_entry
from llmmagic.core.operation import CancelledOperation, CancelToken
from tests.core.models.helpers import Recorder


def make(build, *, key: str = "k", needed: int = 10, emit: Recorder | None = None, cancel: CancelToken | None = None):
    emit = Recorder() if emit is None else emit
    return make_entry("kind", key, build, needed_bytes=needed, emit=emit, cancel=cancel or CancelToken())


def write_x(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "x").write_text("hello")


def test_made_once_then_found(cache: Path) -> None:
    path = make(write_x)
    assert (path / "sub" / "x").read_text() == "hello"
    assert path == cache / "kind" / "k"

    def never(folder: Path) -> None:
        raise AssertionError("built twice")

    assert make(never) == path


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    def fails(folder: Path) -> None:
        write_x(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        make(fails)
    assert find_entry("kind", "k") is None
    assert [path.name for path in (cache / "kind").iterdir()] == ["k.lock"]


def test_a_killed_build_leaves_no_entry_and_is_cleaned_up(cache: Path) -> None:
    child = """
import os
from pathlib import Path
from llmmagic.core.models.cache import make_entry
from llmmagic.core.operation import CancelToken
def build(folder):
    (folder / "x").write_text("half")
    os._exit(9)
make_entry("kind", "k", build, needed_bytes=1, emit=print, cancel=CancelToken())
"""
    assert subprocess.run([sys.executable, "-c", child], check=False).returncode == 9
    assert find_entry("kind", "k") is None
    assert len(list((cache / "kind").glob(".k.*.partial"))) == 1
    make(write_x)
    assert not list((cache / "kind").glob(".k.*.partial"))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_build_that_is_killed_from_outside_leaves_no_entry_and_no_lock(cache: Path) -> None:
    child = """
import time
from llmmagic.core.models.cache import make_entry
from llmmagic.core.operation import CancelToken
def build(folder):
    (folder / "x").write_text("half")
    print("building", flush=True)
    time.sleep(60)
make_entry("kind", "k", build, needed_bytes=1, emit=print, cancel=CancelToken())
"""
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert find_entry("kind", "k") is None
    emit = Recorder()
    assert (make(write_x, emit=emit) / "sub" / "x").read_text() == "hello"
    assert emit.topics() == []  # nobody holds the lock: it was the process's
    assert not list((cache / "kind").glob(".k.*.partial"))


def age(path: Path, days: float) -> None:
    """As if it had last been used so long ago, by another process."""
    then = time.time() - days * 24 * 3600
    os.utime(path / entries.MANIFEST, (then, then))
    entries._mine.discard(path)


def write_kilobytes(count: int) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        (folder / "x").write_bytes(bytes(1000 * count))

    return build


def test_what_was_not_used_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {name: make(write_kilobytes(10), key=name) for name in "abcd"}
    for name, days in (("a", 3), ("b", 9), ("c", 2), ("d", 5)):
        age(paths[name], days)
    assert entries.cache_size_bytes() == 40_000
    assert make(write_x, key="d") == paths["d"]  # used again: now it is the newest
    monkeypatch.setenv("LLMMAGIC_CACHE_LIMIT", "0.000035")
    emit = Recorder()
    new = make(write_kilobytes(10), key="e", emit=emit)
    assert {entry.path.name for entry in entries.cache_entries()} == {"c", "d", "e"}
    assert not paths["b"].exists()
    assert emit.topics() == ["cache-limit"]
    assert [event.text for event in emit if isinstance(event, Notice)] == [
        "Taken out of the cache, to stay within LLMMAGIC_CACHE_LIMIT: 2 unused, 0.02 MB."
    ]
    assert new.exists()


def test_what_is_used_now_stays_however_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMMAGIC_CACHE_LIMIT", "0")
    first, second = make(write_kilobytes(5), key="a"), make(write_kilobytes(5), key="b")
    assert first.exists()
    assert second.exists()
    age(first, 0.5)  # another process, half a day ago
    entries._mine.discard(second)
    make(write_kilobytes(5), key="c")
    assert len(entries.cache_entries()) == 3


@pytest.mark.parametrize("limit", ["much", "-1", "nan", "inf", "20 GB"])
def test_a_limit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv("LLMMAGIC_CACHE_LIMIT", limit)
    with pytest.raises(ConfigError, match="LLMMAGIC_CACHE_LIMIT must be a number of gigabytes"):
        make(write_x)


def test_an_entry_that_lost_a_file_is_made_again() -> None:
    path = make(write_x)
    (path / "sub" / "x").write_text("cut")
    assert find_entry("kind", "k") is None
    assert (make(write_x) / "sub" / "x").read_text() == "hello"


def test_two_at_once_build_once() -> None:
    built = []
    emit = Recorder()

    def slow(folder: Path) -> None:
        built.append(folder)
        time.sleep(0.6)
        write_x(folder)

    threads = [threading.Thread(target=make, args=(slow,), kwargs={"emit": emit}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert emit.topics() == ["cache-lock"]


def test_two_processes_build_once(tmp_path: Path) -> None:
    child = """
import sys, time
from llmmagic.core.models.cache import make_entry
from llmmagic.core.operation import CancelToken
def slow(folder):
    with open(sys.argv[1], "a") as file:
        file.write("built\\n")
    time.sleep(1)
    (folder / "x").write_text("hello")
path = make_entry("kind", "k", slow, needed_bytes=1, emit=lambda event: None, cancel=CancelToken())
assert (path / "x").read_text() == "hello"
"""
    log = tmp_path / "log"
    children = [subprocess.Popen([sys.executable, "-c", child, str(log)]) for _ in range(2)]
    assert [process.wait() for process in children] == [0, 0]
    assert log.read_text() == "built\n"


def test_waiting_can_be_cancelled() -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        started.set()
        go_on.wait(10)

    holder = threading.Thread(target=make, args=(slow,))
    holder.start()
    started.wait(10)
    token = CancelToken()
    threading.Timer(0.3, token.request).start()
    with pytest.raises(CancelledOperation):
        make(write_x, cancel=token)
    go_on.set()
    holder.join()


def test_no_space_left(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5_000_000, 5_000_000))
    with pytest.raises(StorageError) as caught:
        make(write_x, needed=250_000_000)
    assert "No space left for the cache: 250 MB are needed" in str(caught.value)
    assert "5 MB are free" in str(caught.value)
    assert "LLMMAGIC_CACHE_DIR" in str(caught.value)


def test_the_disk_fills_up_meanwhile(cache: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "x").write_text("some")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="No space left on device"):
        make(full)
    assert [path.name for path in (cache / "kind").iterdir()] == ["k.lock"]


def test_a_cache_folder_that_is_a_file(cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        make(write_x)


def test_fingerprints_follow_the_weights(tiny_copy: Path, tmp_path: Path) -> None:
    folder, weights = fingerprint_folder(tiny_copy), fingerprint_weights(tiny_copy)
    other = Path(shutil.copytree(tiny_copy, tmp_path / "other", copy_function=shutil.copy))
    assert fingerprint_weights(other) == weights
    content = bytearray((tiny_copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tiny_copy / "model.safetensors").write_bytes(content)
    assert fingerprint_folder(tiny_copy) != folder
    assert fingerprint_weights(tiny_copy) != weights
