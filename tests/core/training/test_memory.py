"""The memory plan: near what a step really takes, and a refusal that says what would fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import ConfigError, TrainingError
from llmmagic.core.events import TrainStarted
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelToken
from llmmagic.core.training import run as run_module
from llmmagic.core.training.guard import lent_model
from llmmagic.core.training.memory import Shape, StepMemory, check_memory, what_fits
from llmmagic.core.training.run import train
from tests.core.training.conftest import Events

ROWS = [{"question": f"What is number {i}?", "answer": f"It is {i}."} for i in range(8)]
MB = 10**6


def lora(loaded: LoadedModel) -> Any:
    settings = LoraConfig(r=8, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
    with lent_model(loaded):
        return get_peft_model(loaded.model, settings)


def of(loaded: LoadedModel, optim: str = "adamw_torch") -> StepMemory:
    return StepMemory(lora(loaded), optim=optim, device="cpu", weights_bytes=MB)


def test_gradients_and_optimiser_are_counted_exactly(tiny: LoadedModel) -> None:
    model = lora(tiny)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for optim, states in (("adamw_torch", 8), ("paged_adamw_8bit", 2), ("sgd", 0)):
        memory = StepMemory(model, optim=optim, device="cpu", weights_bytes=MB)
        estimate = memory.estimate(Shape(4, 100), free_bytes=MB)
        assert estimate.gradient_bytes == estimate.adapter_bytes == 4 * trained
        assert estimate.optimizer_bytes == states * trained


def test_what_is_longer_or_more_takes_more_and_checkpointing_takes_less(tiny: LoadedModel) -> None:
    memory = of(tiny)

    def needed(rows: int, tokens: int, checkpointing: bool = False) -> int:
        return memory.estimate(Shape(rows, tokens, checkpointing), free_bytes=0).needed_bytes

    assert needed(8, 256) > needed(4, 256) > needed(4, 128)
    assert needed(8, 256, True) < needed(8, 256)
    assert needed(2, 512) == needed(4, 256)


def test_what_fits_changes_the_batch_first_then_checkpointing_then_the_length(tiny: LoadedModel) -> None:
    memory, shape = of(tiny), Shape(8, 1024)

    def fit(tried: Shape) -> str:
        return what_fits(memory, shape, memory.estimate(tried, 0).needed_bytes)

    assert fit(Shape(4, 1024)) == "per_device_train_batch_size: 4, gradient_accumulation_steps: 2 times as many"
    assert fit(Shape(1, 1024)).startswith("per_device_train_batch_size: 1")
    assert fit(Shape(1, 1024, True)).endswith("gradient_checkpointing: true")
    assert fit(Shape(1, 512, True)).endswith("gradient_checkpointing: true, max_length: 512")
    assert what_fits(memory, shape, 1000) == ""
    estimate = memory.estimate(shape, free_bytes=10)
    with pytest.raises(TrainingError, match=r"Load the model in nf4.*--allow memory"):
        check_memory(estimate, memory, shape)


def test_a_run_that_does_not_fit_is_refused_until_it_is_allowed(
    tiny: LoadedModel, events: Events, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_module, "free_memory_bytes", lambda device: 3 * MB)
    model, options = tiny.model, {"max_steps": 1, "output_dir": str(tmp_path)}
    with pytest.raises(TrainingError) as caught:
        train(tiny, ROWS, TrainConfig(options=options), emit=events.append, cancel=CancelToken())
    text = str(caught.value)
    assert text.startswith("A step with 4 rows of up to ")
    assert "3 MB are free on cpu. This would fit: per_device_train_batch_size: " in text
    assert tiny.model is model  # the adapter is gone again
    with pytest.raises(TrainingError, match="--allow memory"):
        train(tiny, ROWS, TrainConfig(options=options), dry_run=True, emit=events.append, cancel=CancelToken())
    allowed = TrainConfig(options=options, allow=("memory",))
    train(tiny, ROWS, allowed, emit=events.append, cancel=CancelToken())
    (started,) = events.of(TrainStarted)
    assert isinstance(started, TrainStarted)
    assert started.memory is not None
    assert not started.memory.fits
    assert (started.memory.rows, started.memory.row_tokens) == (4, started.data.longest_tokens)
    with pytest.raises(ConfigError, match="Did you mean 'memory'"):
        train(tiny, ROWS, TrainConfig(allow=("memry",)), emit=events.append, cancel=CancelToken())


MEASURE = """
import json, sys, threading, time
import psutil, torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head
from llmmagic.core.training.memory import Shape, StepMemory

hidden, layers, vocab, rows, tokens, dropout, checkpointing = json.loads(sys.argv[1])
torch.set_num_threads(1)
config = LlamaConfig(
    vocab_size=vocab, hidden_size=hidden, intermediate_size=3 * hidden, num_hidden_layers=layers, num_attention_heads=4,
    num_key_value_heads=4,
)
lora = LoraConfig(r=16, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(LlamaForCausalLM(config), lora)
if checkpointing:
    model.enable_input_require_grads()
    base = model.base_model.model
    getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)()
add_fused_lm_head(model.base_model.model)
model.train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
memory = StepMemory(model, optim="adamw_torch", device="cpu", weights_bytes=0)
process, peak, done = psutil.Process(), 0, False

def step(ids):
    model(input_ids=ids, labels=ids, fused_lm_head=True).loss.backward()
    optimizer.step()
    optimizer.zero_grad()

def watch():
    global peak
    while not done:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.002)

with torch.no_grad():
    model(input_ids=torch.ones(1, 4, dtype=torch.long))  # whatever the libraries take on first use
before = process.memory_info().rss
watcher = threading.Thread(target=watch)
watcher.start()
for _ in range(2):
    step(torch.randint(0, vocab, (rows, tokens)))
done = True
watcher.join()
needed = memory.estimate(Shape(rows, tokens, bool(checkpointing)), 0).needed_bytes
print(json.dumps([needed, peak - before]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [
        (256, 6, 8000, 4, 256, 0.05, 0),
        (256, 6, 8000, 4, 256, 0.0, 0),
        (256, 6, 8000, 4, 256, 0.05, 1),
        (192, 4, 49152, 2, 256, 0.05, 0),
    ],
    ids=["lora", "no dropout", "checkpointing", "large vocabulary"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the share of the heap was measured on glibc")
def test_the_plan_is_near_what_two_steps_really_take(shape: tuple[float, ...]) -> None:
    """Within a factor of two, either way; the resident memory of a process that does nothing else."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(shape)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    planned, measured = json.loads(ran.stdout.strip().splitlines()[-1])
    assert 0.5 < planned / measured < 2, f"planned {planned / MB:.0f} MB, took {measured / MB:.0f} MB"
