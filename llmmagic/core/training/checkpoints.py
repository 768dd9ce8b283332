"""Checkpoints that are whole or not there at all.

A checkpoint is written into a hidden folder and renamed when it is complete; one that is pruned is renamed before it is
deleted. So whenever the process dies, every ``checkpoint-N`` that exists can be resumed from.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmmagic.core.errors import TrainingError

RECORD = "llmmagic_run.json"
SUPERSEDED = "superseded"
"""Where a new run puts what an earlier one of that name has left, so that nothing is lost by running a cell again."""

_NAME = re.compile(r"checkpoint-(\d+)")
_STAGING, _TRASH = ".saving-", ".deleting-"


def step_of(checkpoint: Path) -> int:
    """After how many steps a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def set_aside_adapter(folder: Path) -> Path | None:
    """Move the adapter that an earlier run has saved, for a new one of the same name.

    Args:
        folder: Where both are saved.

    Returns:
        Where the old one is now, ready to be loaded; ``None`` if there was none.
    """
    old = [folder / name for name in ("adapter_config.json", "adapter_model.safetensors") if (folder / name).exists()]
    if not old:
        return None
    aside = folder / SUPERSEDED
    aside.mkdir(exist_ok=True)
    for file in old:
        os.replace(file, aside / file.name)
    return aside


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run.

    Attributes:
        folder: Where they are; made when the first one is written.
        keep: How many of them.
        record: What a run that resumes must agree with.
    """

    folder: Path
    keep: int
    record: Mapping[str, Any]

    def last(self) -> Path | None:
        """The newest complete checkpoint, if any."""
        found = self._all()
        return found[-1] if found else None

    def begin(self, step: int) -> Path:
        """The folder that checkpoint ``step`` is to be written into."""
        return self.folder / f"{_STAGING}{step}"

    def publish(self, step: int) -> Path:
        """Make what was written into `begin`'s folder a checkpoint, and prune.

        Args:
            step: Its number.

        Returns:
            Its folder.
        """
        staged = self.begin(step) / f"checkpoint-{step}"
        (staged / RECORD).write_text(json.dumps(dict(self.record), indent=2), encoding="utf-8")
        final = self.folder / staged.name
        if final.exists():
            self._delete(final)
        os.replace(staged, final)
        shutil.rmtree(self.begin(step), ignore_errors=True)
        return final

    def prune(self, protected: str | None = None) -> None:
        """Delete all but the newest ``keep``.

        Args:
            protected: One that stays in any case.
        """
        for old in self._all()[: -self.keep]:
            if str(old) != protected:
                self._delete(old)

    def clear(self) -> None:
        """Delete all: the run is complete and its adapter saved."""
        for old in self._all():
            self._delete(old)

    def set_aside(self) -> Path | None:
        """Move what an earlier run has left, for a run that does not resume it.

        Returns:
            Where its last checkpoint is now; ``None`` if there was none.
        """
        self.sweep()
        last = self.last()
        if last is None:
            return None
        aside = self.folder / SUPERSEDED
        aside.mkdir(exist_ok=True)
        for old in aside.glob("checkpoint-*"):
            shutil.rmtree(old, ignore_errors=True)
        os.replace(last, aside / last.name)
        self.clear()
        return aside / last.name

    def sweep(self) -> None:
        """Remove what a process that died has left half-written or half-deleted."""
        for prefix in (_STAGING, _TRASH):
            for rest in self.folder.glob(f"{prefix}*"):
                shutil.rmtree(rest, ignore_errors=True)

    def require(self) -> Path:
        """The checkpoint to resume from.

        Raises:
            TrainingError: There is none, or it is of another run: other data, batch or seed.
        """
        self.sweep()
        last = self.last()
        if last is None:
            raise TrainingError(
                f"There is no checkpoint to resume from in {self.folder}.",
                hint="Leave out --resume to start a new run.",
            )
        try:
            record = json.loads((last / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError) as err:
            raise TrainingError(f"The checkpoint {last} was not written by llmmagic.") from err
        changed = [key for key, value in self.record.items() if record.get(key) != value]
        if changed:
            raise TrainingError(
                f"The run of {last.name} was another one: {' and '.join(changed)} changed since.",
                hint="Resume with the same data and settings, or leave out --resume to start a new run.",
            )
        return last

    def _all(self) -> list[Path]:
        found = [path for path in self.folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
        return sorted(found, key=step_of)

    def _delete(self, path: Path) -> None:
        trash = path.with_name(f"{_TRASH}{path.name}")
        shutil.rmtree(trash, ignore_errors=True)
        os.replace(path, trash)
        shutil.rmtree(trash, ignore_errors=True)
