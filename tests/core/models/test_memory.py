"""Memory: measured, limited by containers, and given back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from llmmagic.core.models import memory
from llmmagic.core.models.memory import device_memory_bytes, free_memory_bytes, process_memory_bytes

# In a process of its own, whose memory nothing else changes. Resident megabytes after each step go to stdout.
_CHILD = """
import json, sys
from tests.core.models.helpers import load, logits
from llmmagic.core.models.memory import process_memory_bytes, release_memory

def measure(*loads):
    loaded = None
    for folder, quantization in loads:
        loaded = load(folder, quantization=quantization)
        logits(loaded)
        release_memory()
        yield process_memory_bytes() / 1e6

a, b = sys.argv[1:]
warm = list(measure((a, "none"), (a, "nf4"), (a, "nf4"), (b, "none")))  # what is allocated once, is
release_memory()
nothing = process_memory_bytes() / 1e6
swapped = list(measure((a, "none"), (b, "none"), (a, "none")))
release_memory()
ten = list(measure(*[(a, "nf4")] * 10))
release_memory()
print(json.dumps({"nothing": nothing, "swapped": swapped, "ten": ten, "end": process_memory_bytes() / 1e6}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems give freed memory back when they like")
def test_loading_again_and_again_keeps_the_memory_of_one(two_models: tuple[Path, Path]) -> None:
    command = [sys.executable, "-c", _CHILD, *map(str, two_models)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    size = 76  # MB of float32 weights
    one, other, again = measured["swapped"]
    assert one - measured["nothing"] > 0.8 * size
    assert abs(again - one) < 0.15 * size
    assert abs(other - one) < 0.15 * size
    first, last = measured["ten"][0], measured["ten"][-1]
    assert last - first < 0.1 * size
    assert measured["end"] - measured["nothing"] < 0.15 * size


def test_what_is_free_and_used() -> None:
    assert 10**7 < process_memory_bytes() < 10**12
    assert free_memory_bytes() > 10**7
    assert device_memory_bytes("cpu") == 0


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit, usage, stat = tmp_path / "memory.max", tmp_path / "memory.current", tmp_path / "memory.stat"
    limit.write_text("1000000000\n")
    usage.write_text("700000000\n")
    stat.write_text("anon 500000000\nactive_file 50000000\ninactive_file 150000000\n")
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", ((limit, usage, stat),))
    assert free_memory_bytes() == 500_000_000
    limit.write_text("max\n")
    assert free_memory_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)
