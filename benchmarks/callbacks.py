"""What our reporting costs a training step: `Session.train` against a bare ``SFTTrainer``, same config, same rows.

The bare trainer gets the very settings and token ids that ours has made, and a callback that does nothing but look at
the clock. The median of the steps after the first is compared, by turns.

    python -m benchmarks callbacks [--quick]
"""

from __future__ import annotations

import statistics
import tempfile
from itertools import pairwise
from typing import Any

from benchmarks.clock import StepClock
from benchmarks.peers import row, take_turns
from benchmarks.training import QUICK_ROWS
from llmmagic import Session, TrainConfig
from llmmagic.core.events import TrainStep
from llmmagic.core.operation import CancelToken

STEPS, QUICK_STEPS, RUNS, TARGET = 16, 4, 4, 1.01


def step_s(stamps: list[float]) -> float:
    """The median time of a step, from when each ended; the first one, which sets things up, is left out."""
    return statistics.median(after - before for before, after in pairwise(stamps))


def options(steps: int, folder: str) -> dict[str, Any]:
    """Settings of a run."""
    return {"max_steps": steps, "per_device_train_batch_size": 4, "max_length": 64, "output_dir": folder}


def ours(model_id: str, steps: int) -> float:
    """Seconds a step takes with our callbacks."""
    session = Session()
    session.load(model_id, quantization="none", dtype="float32").wait()
    with tempfile.TemporaryDirectory() as folder:
        events = session.train(QUICK_ROWS, options=options(steps, folder))
        stamps = [event.elapsed_s for event in events if isinstance(event, TrainStep)]
    session.close()
    return step_s(stamps)


def bare(model_id: str, steps: int) -> float:
    """Seconds a step takes with nothing but a clock."""
    from peft import get_peft_model
    from transformers import PrinterCallback
    from trl import SFTTrainer

    from llmmagic.core.training.plan import plan_training

    session = Session()
    session.load(model_id, quantization="none", dtype="float32").wait()
    loaded = session._require_loaded("Measuring")
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(options=options(steps, folder))
        plan = plan_training(loaded, QUICK_ROWS, config, None, lambda event: None, CancelToken())
        trainer = SFTTrainer(
            model=get_peft_model(loaded.model, plan.lora),
            args=plan.args,
            train_dataset=plan.data.dataset,
            processing_class=loaded.tokenizer,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    session.close()
    return step_s(clock.stamps)


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model and few steps: shows that it runs, not what it costs.

    Returns:
        One row.
    """
    model_id, steps, runs = ("tiny-random", QUICK_STEPS, 1) if quick else ("demo", STEPS, RUNS)
    figures = take_turns(lambda: ours(model_id, steps), lambda: bare(model_id, steps), runs)
    return [row("training step with our callbacks", "s", *figures, "bare SFTTrainer, same config", TARGET, "lower")]
