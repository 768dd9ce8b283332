"""``llmchat`` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).resolve().parents[2]


class RunLlmchat(Protocol):
    """Runs the command and waits for it."""

    def __call__(
        self, *arguments: str, piped: str | bytes | None = "", env: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]: ...


def command(*arguments: str) -> list[str]:
    """``llmchat`` by way of this interpreter, whether or not the project is installed."""
    return [sys.executable, "-m", "llmmagic_tui", *arguments]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Variables for a process with folders of its own; nothing of the user's settings is in them."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("LLMCHAT_")}
    python_path = [str(ROOT), str(ROOT / "tui"), *filter(None, [inherited.get("PYTHONPATH")])]
    return inherited | {
        "LLMMAGIC_DATA_DIR": str(tmp_path / "data"),
        "LLMMAGIC_CONFIG_DIR": str(tmp_path / "config"),
        "PYTHONPATH": os.pathsep.join(python_path),
        "PYTHONIOENCODING": "utf-8",
        "OMP_NUM_THREADS": "1",
        # Converting a model for llama.cpp takes longer than all that is tested here, and the tiny one cannot be.
        "LLMCHAT_ENGINE": "transformers",
    }


@pytest.fixture
def llmchat(environment: dict[str, str], tmp_path: Path) -> RunLlmchat:
    """Run ``llmchat`` in an empty folder, with its input piped."""

    def run(
        *arguments: str, piped: str | bytes | None = "", env: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]:
        data = piped.encode() if isinstance(piped, str) else piped
        done = subprocess.run(
            command(*arguments),
            input=data,
            capture_output=True,
            env={**environment, **env},
            cwd=tmp_path,
            timeout=120,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


def imported_modules(environment: dict[str, str], code: str) -> set[str]:
    """The top-level modules that are imported after running some code in a new interpreter."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    return set(done.stdout.split("\n")[-2].split())


__all__: Sequence[str] = ["RunLlmchat", "command", "imported_modules"]
