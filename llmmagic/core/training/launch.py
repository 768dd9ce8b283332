"""Train in several processes, started through accelerate, and bring the adapter back into the session."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import ConfigError, DataFormatError, TrainingError
from llmmagic.core.events import LoadFinished, LoadProgress, PrepareProgress, TrainFinished, TrainStarted
from llmmagic.core.models.adapters import attach_adapter, save_adapter
from llmmagic.core.operation import CancelledOperation, CancelToken
from llmmagic.core.training.channel import Reader
from llmmagic.core.training.methods.base import Emit
from llmmagic.core.training.runfile import RunFile, write_run_file
from llmmagic.core.training.sources import DataSource, read_table
from llmmagic.core.training.trainable import trains_all

if TYPE_CHECKING:
    from llmmagic.core.models.loaded import LoadedModel

_POLL_S = 0.2
_GRACE_S = 20.0  # after a stop at once
_SHOWN_LINES = 3


def train_in_processes(
    loaded: LoadedModel,
    source: DataSource,
    config: TrainConfig,
    processes: int,
    *,
    eval_source: DataSource | None = None,
    dry_run: bool = False,
    emit: Emit,
    cancel: CancelToken,
) -> TrainFinished | TrainStarted:
    """Train as `train` does, in processes of their own that share the rows of each step.

    Args:
        loaded: The session's model; each process loads its own. Has the adapter on when this returns.
        source: Rows to train on.
        config: Of the run.
        processes: How many; with GPUs each takes one.
        eval_source: Held-out rows.
        dry_run: Stop before the first step.
        emit: Gets the events of the first process.
        cancel: A request stops all of them after the current step, a forced one at once.

    Returns:
        How it went.

    Raises:
        ConfigError: More processes than GPUs, or a run that other processes cannot do.
        LLMMagicError: What training raised in a process.
        TrainingError: A process died.
        CancelledOperation: It was cancelled before the first step was done.
    """
    _check(loaded, config, processes)
    with tempfile.TemporaryDirectory(prefix="llmmagic-run-") as temp:
        folder = Path(temp)
        load = replace(loaded.config, adapter=_adapter_to_go_on(loaded, config, folder))
        data = _as_name(source, config, folder / "data.jsonl")
        eval_data = None if eval_source is None else _as_name(eval_source, config, folder / "eval.jsonl")
        # Rows that were written down have been cut to the split already.
        split = config.split if isinstance(source, str) else None
        run = write_run_file(folder / "run.yaml", RunFile(load, replace(config, split=split), data, eval_data))
        options = [*(["--resume"] if config.resume else []), *(["--dry-run"] if dry_run else [])]
        last = _follow(_command(run, processes, options), Reader(folder), emit, cancel)
    if isinstance(last, TrainFinished):
        if config.name in loaded.info.adapters:  # it went on: the one in memory is replaced by it
            loaded.sources[config.name] = Path(last.adapter_dir)
        attach_adapter(loaded, last.adapter_dir, name=config.name)
    return last


def _check(loaded: LoadedModel, config: TrainConfig, processes: int) -> None:
    if trains_all(loaded, config):
        raise ConfigError(
            "Several processes train an adapter here, not all weights of the model.",
            hint="Write a run file (--save run.yaml) and run it with accelerate launch -m llmmagic.train run.yaml.",
        )
    if loaded.info.device.startswith("cuda"):
        import torch

        if processes > torch.cuda.device_count():
            raise ConfigError(f"{processes} processes need as many GPUs, and there are {torch.cuda.device_count()}.")


def _adapter_to_go_on(loaded: LoadedModel, config: TrainConfig, folder: Path) -> str | None:
    """An adapter that goes on is saved for the processes to load; a new one needs none."""
    if config.name not in loaded.info.adapters or config.resume:
        return None
    return str(save_adapter(loaded, folder / config.name, name=config.name))


def _as_name(source: DataSource, config: TrainConfig, path: Path) -> str:
    """A name that other processes can read the rows by."""
    if isinstance(source, (str, Path)):
        return str(Path(source).resolve()) if Path(source).exists() else str(source)
    rows = read_table(source, split=config.split).rows
    try:
        with path.open("w", encoding="utf-8") as file:
            for place in range(len(rows)):
                file.write(json.dumps(dict(rows[place])) + "\n")
    except TypeError as err:
        raise DataFormatError(f"The rows cannot be handed to other processes: {err}.") from err
    return str(path)


def _command(run: Path, processes: int, options: list[str]) -> list[str]:
    # Without GPUs accelerate needs --multi_gpu too to start several processes; they then talk over gloo. Port 0: any.
    launch = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    program = ["-m", "llmmagic.train", str(run), "--channel", str(run.parent), *options]
    return [sys.executable, "-m", "accelerate.commands.launch", *launch, *program]


def _follow(command: list[str], reader: Reader, emit: Emit, cancel: CancelToken) -> TrainFinished | TrainStarted:
    """Pass on what the processes say until they have ended."""
    last: TrainFinished | TrainStarted | None = None
    forced_at: float | None = None
    log = reader.folder / "log"
    with log.open("wb") as output, _processes(command, output) as process:
        ended = False
        while not ended:
            ended = process.poll() is not None  # before the reading: what is said last is not lost
            for event in reader.events():
                if isinstance(event, LoadProgress):
                    event = PrepareProgress(done=event.done, total=event.total, detail=f"load: {event.stage}")
                if isinstance(event, (TrainStarted, TrainFinished)):
                    last = event
                if not isinstance(event, (LoadFinished, TrainFinished)):
                    emit(event)
            if cancel.requested:
                reader.stop(now=cancel.forced)
            if cancel.forced:
                forced_at = forced_at or time.monotonic()
                if time.monotonic() - forced_at > _GRACE_S:
                    break
            if not ended:
                time.sleep(_POLL_S)
    finished = isinstance(last, TrainFinished) or (process.returncode == 0 and last is not None)
    if finished and last is not None:
        return last
    if cancel.requested:
        raise CancelledOperation
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    raise TrainingError(
        f"A training process ended unexpectedly: {' '.join(lines[-_SHOWN_LINES:]) or 'it said nothing'}"
    )


@contextmanager
def _processes(command: list[str], output: object) -> Iterator[subprocess.Popen[bytes]]:
    """A launcher and what it starts; none of them is left behind. Ctrl+C reaches us alone."""
    import psutil

    process = subprocess.Popen(  # type: ignore[call-overload]  # output is a file
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=sys.platform != "win32",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    try:
        yield process
    finally:
        try:
            left = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        except psutil.NoSuchProcess:
            left = []
        for child in left:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait()
