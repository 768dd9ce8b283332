"""What benchmarks of generation have in common: ratios of two things that are measured in turns."""

from __future__ import annotations

import statistics
import threading
import time
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


def bound_row(
    name: str,
    unit: str,
    ours: float,
    peer: float,
    peer_name: str,
    bound: float,
    better: Literal["higher", "lower"],
    runs: int,
) -> dict[str, object]:
    """A result with a target of its own, in its own unit; the ratio to the peer says what the figure is worth."""
    return {
        "benchmark": name,
        "unit": unit,
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "peer_name": peer_name,
        "ratio": round(ours / peer, 3),
        "target": f"{'>=' if better == 'higher' else '<='} {bound:g} {unit}",
        "passed": ours >= bound if better == "higher" else ours <= bound,
        "runs": runs,
    }


def time_row(name: str, ours_s: float, target_s: float, peer_name: str, peer_s: float, runs: int) -> dict[str, object]:
    """A result with a target in seconds: medians in milliseconds, and their ratio."""
    return bound_row(name, "ms", 1000 * ours_s, 1000 * peer_s, peer_name, 1000 * target_s, "lower", runs)


def open_model(model_id: str, **settings: Any) -> Any:
    """Load a model for a benchmark, without a session: the engine, its template and its weights."""
    from llmmagic.core.config import LoadConfig
    from llmmagic.core.engines.opened import open_engine
    from llmmagic.core.operation import CancelToken

    config = LoadConfig(model_id=model_id, **settings)
    return open_engine(config, worker=False, emit=lambda event: None, cancel=CancelToken())


def model_folder(model_id: str) -> str:
    """The full weights of a model as a folder that Transformers reads, made if need be."""
    from llmmagic.core.models.resolve import resolve
    from llmmagic.core.operation import CancelToken

    return str(resolve(model_id, revision=None, code=False, emit=lambda event: None, cancel=CancelToken()).folder)


def tutorial_model(folder: str, compute: str) -> tuple[Any, Any]:
    """Load a model as the Llama-2 tutorials of 2023 do, in today's Transformers.

    Args:
        folder: Of the full weights.
        compute: What 4-bit layers compute in; ``"float16"`` in the tutorials.

    Returns:
        The model in NF4 and its tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, compute)
    )
    # Float16 is what the files of most models hold, and what the tutorials left everything in that is not quantised.
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=getattr(torch, compute), device_map={"": "cpu"}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return model, tokenizer


def streamed_tokens_per_s(generate: Callable[[Any], object], tokenizer: Any) -> float:
    """Tokens a second from the first token on.

    Args:
        generate: Generates a reply into the streamer it is given.
        tokenizer: Of the model.

    Returns:
        From when the streamer got one token after the other.
    """
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    thread = threading.Thread(target=generate, args=(streamer,))
    thread.start()
    stamps = [time.perf_counter() for _ in streamer]
    thread.join()
    # One stamp a token but the last, which is the end of the stream.
    return (len(stamps) - 2) / (stamps[-2] - stamps[0])
