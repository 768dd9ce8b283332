"""Loading from a notebook again and again takes the memory of one model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.magics.conftest import ROOT

# In a process of its own, whose memory nothing else changes; resident megabytes go to stdout.
SCRIPT = """
import contextlib, io, json, sys
from llmmagic.core.models.memory import process_memory_bytes
from tests.magics.conftest import make_shell

a, b = sys.argv[1:]
shell = make_shell()

def measure(*lines):
    for line in lines:
        with contextlib.redirect_stdout(io.StringIO()):
            assert shell.run_cell(f"%llm_load {line}").success
            assert shell.run_cell("%llm_chat --new --max-new-tokens 2 Hello").success
        yield process_memory_bytes() / 1e6

plain = " --quantization none --dtype float32"
list(measure(a + plain, a + " --quantization nf4", b + plain))  # what is allocated once, is
shell.run_line_magic("llm_unload", "")
nothing = process_memory_bytes() / 1e6
swapped = list(measure(a + plain, b + plain, a + plain))
same = list(measure(*[a + plain] * 10))
forced = list(measure(*[a + " --quantization nf4 --force"] * 5))
print(json.dumps({"nothing": nothing, "swapped": swapped, "same": same, "forced": forced}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems give freed memory back when they like")
def test_ten_loads_and_three_models_keep_the_memory_of_one(two_models: tuple[Path, Path]) -> None:
    command = [sys.executable, "-c", SCRIPT, *map(str, two_models)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout.splitlines()[-1])
    size = 76  # MB of float32 weights
    one, other, again = measured["swapped"]
    assert one - measured["nothing"] > 0.8 * size
    assert abs(other - one) < 0.15 * size
    assert abs(again - one) < 0.15 * size
    assert measured["same"][-1] - again < 0.1 * size
    assert measured["forced"][-1] - measured["forced"][0] < 0.15 * size
