"""The process that merges and converts: started by `llmmagic.core.export.child`, never by a person.

A process of its own, because it can be killed at any moment and gives back all of its memory. The job comes as JSON on
standard input; progress, and how it ended, go as lines of JSON to what was standard output. Whatever libraries print
goes to standard error, which is a log file. It ends with the process that started it: its standard input then closes.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmmagic.core.config import LoadConfig
from llmmagic.core.errors import LLMMagicError
from llmmagic.core.events import LoadEvent, LoadProgress, LoadStage
from llmmagic.core.models.entries import MANIFEST
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelToken

Job = dict[str, Any]
Tell = Callable[[dict[str, Any]], None]

CONVERTING = "converting"
"""Said once the converter has begun: what fails from here on is for good."""
_WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".gguf", ".bin", ".pt", ".pth")


def main() -> None:
    """Do one job."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        tell({"result": _work(job, tell)})
    except LLMMagicError as err:
        tell({"error": {"class": type(err).__name__, "message": err.message, "hint": err.hint}})
    replies.close()
    os._exit(0)  # the other thread waits for standard input, which stays open


def _end_with_parent() -> None:
    # Not sys.stdin: a thread that waits in it keeps the interpreter from ending in order.
    while os.read(0, 4096):
        continue
    os._exit(1)


def _work(job: Job, tell: Tell) -> dict[str, Any]:
    """Load, merge, ask and save as the job says; then convert."""

    def emit(event: LoadEvent) -> None:
        if isinstance(event, LoadProgress):
            tell({"progress": asdict(event)})

    result: dict[str, Any] = {"reference": None}
    folder = Path(job["folder"])
    if job["dtype"] is not None:
        loaded = _load(job, emit)
        if job["reference"]:
            result["reference"] = _reference(loaded)
        if job["merged"] is not None:
            folder = _save_merged(loaded, folder, Path(job["merged"]), job["save_dtype"], emit)
        del loaded
        gc.collect()
    if job["gguf"] is not None:
        tell({CONVERTING: True})
        result["pre_tokenizer_known"] = _convert(folder, Path(job["gguf"]), job["outtype"], emit)
    return result


def _convert(folder: Path, target: Path, outtype: str, emit: Callable[[LoadEvent], None]) -> bool:
    from llmmagic.core.export.converter import convert
    from llmmagic.core.export.requantize import requantize

    if outtype != "q4_0":
        known = convert(folder, target, outtype)
        emit(LoadProgress("convert", 100, 100, "steps", outtype))
        return known
    whole = target.with_suffix(".f16.gguf")
    known = convert(folder, whole, "f16")
    emit(LoadProgress("convert", 100, 100, "steps", "f16"))
    requantize(whole, target, emit)
    whole.unlink()
    return known


def _load(job: Job, emit: Callable[[LoadEvent], None]) -> LoadedModel:
    """The base with its full weights, the adapter merged into them."""
    from llmmagic.core.models.load import load_model, prepare

    cancel = CancelToken()  # a job is cancelled by killing it
    config = LoadConfig(
        model_id=job["base_id"],
        revision=job["revision"],
        adapter=job["adapter"],
        quantization="none",
        dtype=job["dtype"],
        device="cpu",
        trust_remote_code=job["trust_remote_code"],
    )
    loaded = load_model(prepare(config, emit=emit, cancel=cancel), emit=emit, cancel=cancel)
    if job["adapter"] is not None:
        # Checked: weights that are no numbers any more would be found much later, by a model that says nothing.
        loaded.model = loaded.model.merge_and_unload(safe_merge=True).eval()
    return loaded


def _reference(loaded: LoadedModel) -> list[dict[str, Any]]:
    from llmmagic.core.chat.template import ChatTemplate
    from llmmagic.core.export.reference import held_out_tokens, take_reference

    texts = held_out_tokens(ChatTemplate.from_tokenizer(loaded.tokenizer))
    return [asdict(text) for text in take_reference(loaded.model, texts)]


def _save_merged(
    loaded: LoadedModel, base: Path, target: Path, dtype: str | None, emit: Callable[[LoadEvent], None]
) -> Path:
    """Write a Transformers folder: the merged weights, and everything else as the base has it."""
    import torch

    from llmmagic.core.models.progress import library_bars

    target.mkdir(parents=True, exist_ok=True)
    if dtype is not None:
        loaded.model.to(getattr(torch, dtype))
    stage: LoadStage = "save"
    with library_bars(stage, emit=emit, cancel=CancelToken()):
        loaded.model.save_pretrained(target)
    for file in base.iterdir():
        ours = file.name == MANIFEST or file.name.endswith(_WEIGHT_SUFFIXES)
        if file.is_file() and not ours and not (target / file.name).exists():
            shutil.copyfile(file, target / file.name)
    return target
