"""Training: tokens a second on MedQuAD rows, ours against the recipe of the Llama-2 tutorials of 2023 in today's TRL.

Ours is `Session.train` as it comes, on the model as a load without settings gives it. The peer is the tutorial with the
names that its lines have today: NF4 that computes in float16, batches of four, LoRA with r = 64, and what TRL does by
itself (gradient checkpointing), but for the mixed bfloat16 that it turns on on a CPU: with float16 weights that ends in
an error. A second peer computes in float32; beside its speed, the loss on the answers of held-out rows is compared
after both have trained for the same time.

Float16 takes minutes for a single step on most CPUs, so rows are short and steps few. The rows: ``LLMMAGIC_MEDQUAD``, a
folder with ``train.jsonl`` and ``eval.jsonl``, or ``../shared/data/medquad``.

    python -m benchmarks training [--quick]
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.clock import StepClock
from benchmarks.peers import model_folder, row, take_turns, tutorial_model
from llmmagic import Session
from llmmagic.core.events import TrainStep
from llmmagic.core.operation import CancelToken

BATCH, MAX_LENGTH = 4, 128
FLOAT16_STEPS, STEPS, OUR_STEPS, HELD_OUT, RUNS = 1, 4, 6, 16, 2
CHARACTERS = 3 * MAX_LENGTH  # of a row: about what fits
QUICK_ROWS = [{"question": f"What is {word}?", "answer": f"It is {word}."} for word in ("gout", "asthma", "croup")] * 8

Rows = list[dict[str, str]]


def medquad(name: str, count: int) -> Rows:
    """The first rows that are short enough.

    Raises:
        SystemExit: They are not here.
    """
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "medquad"
    file = Path(os.environ.get("LLMMAGIC_MEDQUAD", default)) / f"{name}.jsonl"
    if not file.exists():
        raise SystemExit(f"{file} is not here: set LLMMAGIC_MEDQUAD to the folder of the MedQuAD rows.")
    with file.open(encoding="utf-8") as lines:
        rows = ({key: row[key] for key in ("question", "answer")} for row in map(json.loads, lines))
        short = (row for row in rows if CHARACTERS // 2 < len(row["question"]) + len(row["answer"]) < CHARACTERS)
        return list(islice(short, count))


@contextmanager
def session_of(model_id: str) -> Iterator[Session]:
    """A session with the model as a plain load gives it."""
    session = Session()
    session.load(model_id).wait()
    yield session
    session.close()


def train_ours(session: Session, rows: Rows, steps: int, *, limit_s: float | None = None) -> TrainStep:
    """Train.

    Args:
        session: With a model; has the adapter on afterwards.
        rows: To train on.
        steps: How many optimizer steps.
        limit_s: Stop at the first step that ends later.

    Returns:
        The last step: its ``tokens_per_s`` and ``elapsed_s`` are of all of them.
    """
    last: TrainStep | None = None
    with tempfile.TemporaryDirectory() as folder:
        options = {"max_steps": steps, "per_device_train_batch_size": BATCH, "max_length": MAX_LENGTH}
        training = session.train(rows, options={**options, "output_dir": folder})
        for event in training:
            if isinstance(event, TrainStep):
                last = event
                if limit_s is not None and event.elapsed_s >= limit_s:
                    training.cancel()
    assert last is not None
    return last


def train_tutorial(folder: str, rows: Rows, compute: str, steps: int) -> tuple[Any, StepClock]:
    """Train as the tutorial does.

    Args:
        folder: Of the full weights.
        rows: To train on.
        compute: What 4-bit layers compute in.
        steps: How many optimizer steps.

    Returns:
        The trained model, and how long it took.
    """
    import datasets
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = tutorial_model(folder, compute)
    model.config.use_cache = False
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}],
            tokenize=False,
        )
        for row in rows
    ]
    clock = StepClock()
    with tempfile.TemporaryDirectory() as output:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=output,
                per_device_train_batch_size=BATCH,
                max_steps=steps,
                max_length=MAX_LENGTH,
                dataset_text_field="text",
                include_num_input_tokens_seen="non_padding",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                bf16=False,
            ),
            train_dataset=datasets.Dataset.from_dict({"text": texts}),
            processing_class=tokenizer,
            peft_config=LoraConfig(task_type="CAUSAL_LM", r=64, lora_alpha=16, lora_dropout=0.1),
            callbacks=[clock],
        )
        trainer.train()
    return trainer.model, clock


def answers_loss(model: Any, tokenizer: Any, rows: Rows) -> float:
    """The loss on the answers, in nats a token: the same figure for both."""
    from llmmagic.core.training.dataset import tokenize_table
    from llmmagic.core.training.evaluate import held_out_loss
    from llmmagic.core.training.examples import make_examples_like_chat
    from llmmagic.core.training.formats import detect_layout
    from llmmagic.core.training.sources import read_table

    maker = make_examples_like_chat(model, tokenizer, max_length=4 * MAX_LENGTH)
    table = read_table(rows)
    cancel = CancelToken()
    data = tokenize_table(table, detect_layout(table), maker, emit=lambda event: None, cancel=cancel)
    return held_out_loss(model, data.dataset, emit=lambda event: None, cancel=cancel).loss


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model, few rows, no MedQuAD: shows that it runs, not how fast.

    Returns:
        Three rows: tokens a second against float16 and against float32, and the loss after the same time.
    """
    if quick:
        model_id, rows, held_out, runs = "tiny-random", QUICK_ROWS, QUICK_ROWS[:4], 1
    else:
        model_id, runs = "demo", RUNS
        rows, held_out = medquad("train", 400), medquad("eval", HELD_OUT)
    folder = model_folder(model_id)
    losses: tuple[list[float], list[float]] = ([], [])
    times: list[float] = []

    def ours() -> float:
        with session_of(model_id) as session:
            return train_ours(session, rows, OUR_STEPS).tokens_per_s

    def float16() -> float:
        return train_tutorial(folder, rows, "float16", FLOAT16_STEPS)[1].tokens_per_s

    def float32() -> float:
        model, clock = train_tutorial(folder, rows, "float32", STEPS)
        with session_of(model_id) as session:
            losses[1].append(answers_loss(model, session.tokenizer, held_out))
        times.append(clock.seconds)
        return clock.tokens_per_s

    name = "training, non-padding tokens"
    recipe = "tutorial recipe in today's TRL, NF4,"
    result = [
        row(name, "tok/s", *take_turns(ours, float16, 1), f"{recipe} float16 compute", 10, "higher"),
        row(name, "tok/s", *take_turns(ours, float32, runs), f"{recipe} float32 compute", 2, "higher"),
    ]
    for limit_s in times:
        losses[0].append(_loss_after(model_id, rows, held_out, limit_s))
    label = f"held-out loss after {max(times):.0f} s of training"
    result.append(row(label, "nats", *losses, f"{recipe} float32 compute", 1.0, "lower"))
    return result


def _loss_after(model_id: str, rows: Rows, held_out: Rows, limit_s: float) -> float:
    """Our loss when training may take so long, all of its schedule inside that time."""
    with session_of(model_id) as session:
        probe = train_ours(session, rows, 2)
    steps = max(1, int(0.9 * limit_s * probe.step / probe.elapsed_s))
    with session_of(model_id) as session:
        train_ours(session, rows, steps, limit_s=limit_s)
        loaded = session._require_loaded("Measuring")
        return answers_loss(loaded.model, loaded.tokenizer, held_out)
