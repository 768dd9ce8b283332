"""Train without a notebook: ``python -m llmmagic.train run.yaml``.

On many processes, GPUs or machines: ``accelerate launch --multi_gpu --num_processes 2 -m llmmagic.train run.yaml``, or
as ``accelerate config`` has it. Without GPUs it is the same command, and the processes talk over gloo.

The file is described in `llmmagic.core.training.runfile`. Ctrl+C (or SIGTERM, as batch systems send it) stops after the
current step with a checkpoint; a second one stops at once. Exit codes: 0 done, 1 an error, 2 bad usage, 130 stopped.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from llmmagic.core.errors import LLMMagicError
from llmmagic.core.events import (
    Cancelled,
    DataInspected,
    LoadEvent,
    LoadFinished,
    LoadProgress,
    Notice,
    PrepareProgress,
    TrainEval,
    TrainEvent,
    TrainFinished,
    TrainSample,
    TrainStarted,
    TrainStep,
)
from llmmagic.core.operation import CancelledOperation, CancelToken
from llmmagic.core.sanitize import one_line, strip_controls
from llmmagic.core.training.channel import Writer
from llmmagic.core.training.runfile import RunFile, read_run_file

if TYPE_CHECKING:
    from llmmagic.core.training.sources import DataSource

STOPPED = 130  # what a shell reports for a program that Ctrl+C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m llmmagic.train", description="Train an adapter from a run file.")
    parser.add_argument("run", type=Path, help="YAML file: model, data, and any setting of the training")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this run")
    parser.add_argument("--dry-run", action="store_true", help="stop before the first step")
    parser.add_argument("--channel", type=Path, metavar="FOLDER", help="for programs: tell events there, and heed stop")
    arguments = parser.parse_args(argv)
    cancel = CancelToken()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: cancel.request(force=cancel.requested))
    channel = None if arguments.channel is None else Writer(arguments.channel, cancel)
    try:
        run = read_run_file(arguments.run)
        if arguments.resume:
            run = replace(run, train=replace(run.train, resume=True))
        finished = _train(run, dry_run=arguments.dry_run, channel=channel, cancel=cancel)
    except CancelledOperation:
        return STOPPED
    except LLMMagicError as err:
        if channel is not None:
            channel.error(err)
        sys.stderr.write(f"error: {strip_controls(str(err))}\n")
        return 1
    return STOPPED if isinstance(finished, TrainFinished) and finished.reason == "cancelled" else 0


def _train(run: RunFile, *, dry_run: bool, channel: Writer | None, cancel: CancelToken) -> TrainFinished | TrainStarted:
    from llmmagic.core.models.load import load_model, prepare
    from llmmagic.core.training.run import train

    tell = _say_nothing
    if int(os.environ.get("RANK", "0")) == 0:
        tell = _tell if channel is None else channel.event
    loaded = load_model(prepare(_on_this_device(run), emit=tell, cancel=cancel), emit=tell, cancel=cancel)
    data = _rows(run.data, run, tell)
    eval_data = None if run.eval_data is None else _rows(run.eval_data, run, tell)
    last = train(loaded, data, run.train, eval_source=eval_data, dry_run=dry_run, emit=tell, cancel=cancel)
    tell(last)
    return last


def _rows(source: str, run: RunFile, tell: Callable[[Notice], None]) -> DataSource:
    """A source as it is; for what was collected in chats, its rows."""
    from llmmagic.core.chat.store import ConversationStore
    from llmmagic.core.training.collected import collect, is_collected

    if not is_collected(source):
        return source
    with ConversationStore() as store:
        return collect(source, run.train.method, store, {}, tell)


def _on_this_device(run: RunFile) -> Any:
    """Each process of a machine takes a GPU of its own."""
    local_rank = os.environ.get("LOCAL_RANK")
    if local_rank is None or run.load.device not in ("auto", "cuda"):
        return run.load
    import torch

    return replace(run.load, device=f"cuda:{local_rank}") if torch.cuda.is_available() else run.load


def _say_nothing(event: LoadEvent | TrainEvent) -> None:
    """What all processes but the first say."""


def _tell(event: LoadEvent | TrainEvent) -> None:
    line = _line(event)
    if line:
        sys.stdout.write(strip_controls(line) + "\n")
        sys.stdout.flush()


def _line(event: LoadEvent | TrainEvent) -> str:
    match event:
        case Notice():
            return f"{event.level}: {event.text}"
        case LoadProgress() | PrepareProgress() | Cancelled():
            return ""
        case LoadFinished():
            return f"loaded {event.info.model_id}"
        case DataInspected():
            report = event.report
            share = report.trained_tokens / max(report.total_tokens, 1)
            return f"data: {event.rows} rows, {report.total_tokens:,} tokens, {share:.0%} of them trained on"
        case TrainStarted():
            settings = " ".join(f"{key}={value}" for key, value in event.settings.items())
            return (
                f"training {event.name}: {event.data.rows} rows ({event.data.format}), {event.total_steps} steps of "
                f"{event.batch_size} rows, {event.trainable_parameters:,} trainable weights\n{settings}"
            )
        case TrainStep():
            loss = "" if event.loss is None else f" loss {event.loss:.4f}"
            return (
                f"step {event.step}/{event.total_steps}{loss}{_metrics(event.metrics)} lr {event.learning_rate:.2e} "
                f"{event.tokens_per_s:.0f} tokens/s, {event.eta_s:.0f} s left"
            )
        case TrainEval():
            perplexity = "" if event.perplexity is None else f" (perplexity {event.perplexity:.2f})"
            return f"held-out loss {event.loss:.4f}{perplexity}{_metrics(event.metrics)} after step {event.step}"
        case TrainSample():
            return f"sample after step {event.step}: {one_line(event.prompt, 60)} -> {one_line(event.text, 200)}"
        case TrainFinished():
            return f"{event.reason} after {event.steps} steps; adapter saved to {event.adapter_dir}"
        case _:
            assert_never(event)


def _metrics(metrics: dict[str, float]) -> str:
    return "".join(f" {name} {value:.4f}" for name, value in metrics.items())


if __name__ == "__main__":
    sys.exit(main())
