"""What benchmarks of generation have in common: ratios of two things that are measured in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, Literal


def take_turns(ours: Callable[[], float], peer: Callable[[], float], runs: int) -> tuple[list[float], list[float]]:
    """Measure two things by turns, so that whatever else the machine does meets both."""
    first, second = [], []
    for number in range(runs):
        pair = ((ours, first), (peer, second))
        for measure, figures in pair if number % 2 else reversed(pair):
            figures.append(measure())
    return first, second


def row(
    name: str,
    unit: str,
    ours: list[float],
    peer: list[float],
    peer_name: str,
    target: float,
    better: Literal["higher", "lower"],
) -> dict[str, object]:
    """A result: medians, the ratio of the medians, and the range of the ratios of each turn."""
    ratio = statistics.median(ours) / statistics.median(peer)
    ratios = sorted(a / b for a, b in zip(ours, peer, strict=True))
    return {
        "benchmark": name,
        "unit": unit,
        "ours": round(statistics.median(ours), 3),
        "peer": round(statistics.median(peer), 3),
        "peer_name": peer_name,
        "ratio": round(ratio, 3),
        "spread": f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
        "target": f"{'>=' if better == 'higher' else '<='} {target}",
        "passed": ratio >= target if better == "higher" else ratio <= target,
        "runs": len(ours),
    }


def time_row(name: str, ours_s: float, target_s: float, peer_name: str, peer_s: float, runs: int) -> dict[str, object]:
    """A result with a target in seconds: medians in milliseconds, and their ratio."""
    return {
        "benchmark": name,
        "unit": "ms",
        "ours": round(1000 * ours_s, 3),
        "peer": round(1000 * peer_s, 3),
        "peer_name": peer_name,
        "ratio": round(ours_s / peer_s, 3),
        "target": f"<= {1000 * target_s:g} ms",
        "passed": ours_s <= target_s,
        "runs": runs,
    }


def open_model(model_id: str, **settings: Any) -> Any:
    """Load a model for a benchmark, without a session: the engine, its template and its weights."""
    from llmmagic.core.config import LoadConfig
    from llmmagic.core.engines.opened import open_engine
    from llmmagic.core.operation import CancelToken

    config = LoadConfig(model_id=model_id, **settings)
    return open_engine(config, worker=False, emit=lambda event: None, cancel=CancelToken())
