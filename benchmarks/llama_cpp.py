"""The llama.cpp engine: our session against the raw library, guessed tokens, a worker process, and reading prompts.

Decoding is measured on the same GGUF file. The raw library gets the same ids, batch size and threads, a callback that
only takes the time, and no drafting; ours is as it always is. Guessing is compared with the same engine without it, on
an answer that repeats its question, and has to give the same tokens. Prefill of about 1,500 tokens goes against the
transformers engine in float32 and, for ``demo``, against the raw library on the Q4_1 file that the model comes in.

    python -m benchmarks llama_cpp [--quick]
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peers import open_model, row, take_turns
from llmmagic.core.config import GenerationConfig, LoadConfig
from llmmagic.core.engines.llama_cpp import LlamaCppEngine
from llmmagic.core.engines.llama_cpp_server import start_server
from llmmagic.core.engines.opened import open_engine
from llmmagic.core.events import ChatFinished, GenerationFinished
from llmmagic.core.export.gguf_facts import read_facts
from llmmagic.core.operation import CancelToken
from llmmagic.core.session import Session

RUNS, TOKENS, QUICK_TOKENS = 5, 128, 8
PREFILL_TOKENS, QUICK_PREFILL_TOKENS = 1500, 200
WINDOW = 2048
PROMPT = "Explain in a few sentences how a vaccine works."
TEXT = (
    "Rest the ankle, put ice on it for twenty minutes, wrap it in a bandage and keep it raised above the heart. "
    "See a doctor if you cannot walk on it after two days."
)
REPETITIVE = f"Repeat this text three times, exactly:\n{TEXT}"
DECODE_TARGET, DRAFT_TARGET, WORKER_TARGET, FLOAT32_TARGET, Q4_1_TARGET = 0.97, 1.3, 0.97, 0.9, 1.7
GREEDY = GenerationConfig(temperature=0, repetition_penalty=1)


def raw_decode(server: Any, prompt_ids: list[int], tokens: int) -> float:
    """Tokens a second of the raw library, from the first token on."""
    stamps: list[float] = []

    def hear(chunk: dict[str, Any]) -> bool:
        stamps.append(time.perf_counter())
        return False

    request = {"prompt": prompt_ids, "n_predict": tokens, "temperature": 0, "stream": True, "cache_prompt": False}
    server.handle_completions(request, hear)
    return (len(stamps) - 2) / (stamps[-2] - stamps[0])  # the last one says that it has ended


def raw_prefill(server: Any, prompt_ids: list[int]) -> float:
    """Prompt tokens a second of the raw library."""
    start = time.perf_counter()
    server.handle_completions(
        {"prompt": prompt_ids, "n_predict": 1, "temperature": 0, "cache_prompt": False}, lambda chunk: False
    )
    return len(prompt_ids) / (time.perf_counter() - start)


def engine_run(engine: Any, prompt_ids: list[int], tokens: int) -> GenerationFinished:
    """One reply of an engine that has nothing in its cache."""
    engine.reset()
    *_, last = engine.generate(prompt_ids, replace(GREEDY, max_new_tokens=tokens), CancelToken())
    assert isinstance(last, GenerationFinished)
    return last


def engine_prefill(engine: Any, prompt_ids: list[int]) -> float:
    """Prompt tokens a second of an engine."""
    return len(prompt_ids) / engine_run(engine, prompt_ids, 1).stats.time_to_first_token_s


def session_decode(session: Session, tokens: int) -> float:
    """Tokens a second of a whole session: template, window, engine and events."""
    last = session.chat(PROMPT, new=True, max_new_tokens=tokens, temperature=0, repetition_penalty=1).wait()
    assert isinstance(last, ChatFinished)
    return last.stats.tokens_per_s


def run(quick: bool) -> list[dict[str, object]]:
    """Measure.

    Args:
        quick: The tiny model and few tokens: shows that it runs, not how fast.

    Returns:
        A row for each comparison.
    """
    model_id, tokens, runs = ("tiny-random", QUICK_TOKENS, 1) if quick else ("demo", TOKENS, RUNS)
    config = LoadConfig(model_id=model_id, engine="llama.cpp", max_context=WINDOW)
    session, worker = Session(), Session(worker=True)
    session.load(config).wait()
    worker.load(config).wait()
    opened = open_engine(config, worker=False, emit=lambda event: None, cancel=CancelToken())
    assert isinstance(opened.engine, LlamaCppEngine)
    file = opened.engine.file
    plain = LlamaCppEngine(
        file,
        template=opened.template,
        vocab_size=read_facts(file).vocab_size,
        context_window=WINDOW,
        drafts=False,
    )
    raw = start_server(file, context_window=WINDOW, drafts=False)
    short = opened.template.encode([{"role": "user", "content": PROMPT}])
    repeating = opened.template.encode([{"role": "user", "content": REPETITIVE}])
    same = [engine_run(engine, repeating, tokens).token_ids for engine in (opened.engine, plain)]
    assert same[0] == same[1], "guessing has changed the reply"

    rows = [
        row(
            "decode, llama.cpp engine through our session",
            "tok/s",
            *take_turns(lambda: session_decode(session, tokens), lambda: raw_decode(raw, short, tokens), runs),
            "raw xllamacpp, same file",
            DECODE_TARGET,
            "higher",
        ),
        row(
            "decode of a repetitive answer, n-gram drafting",
            "tok/s",
            *take_turns(
                lambda: engine_run(opened.engine, repeating, tokens).stats.tokens_per_s,
                lambda: engine_run(plain, repeating, tokens).stats.tokens_per_s,
                runs,
            ),
            "the same engine without",
            DRAFT_TARGET,
            "higher",
        ),
        row(
            "decode, worker engine",
            "tok/s",
            *take_turns(lambda: session_decode(worker, tokens), lambda: session_decode(session, tokens), runs),
            "same engine in process",
            WORKER_TARGET,
            "higher",
        ),
    ]
    for one in (session, worker):
        one.close()
    return rows + prefill(quick, opened.engine, opened.template, runs)


def prefill(quick: bool, engine: LlamaCppEngine, template: Any, runs: int) -> list[dict[str, object]]:
    """Reading a long prompt: rows against transformers, and against the file that ``demo`` comes in."""
    length = QUICK_PREFILL_TOKENS if quick else PREFILL_TOKENS
    prompt_ids = (template.encode([{"role": "user", "content": TEXT}]) * length)[:length]
    peer = open_model("tiny-random" if quick else "demo", quantization="none", dtype="float32", engine="transformers")
    figures = take_turns(
        lambda: engine_prefill(engine, prompt_ids), lambda: engine_prefill(peer.engine, prompt_ids), runs
    )
    name = f"prefill of {length:,} tokens, llmchat's default engine"
    rows = [row(name, "tok/s", *figures, "transformers float32", FLOAT32_TARGET, "higher")]
    if not quick:
        raw = start_server(_q4_1(), context_window=WINDOW, drafts=False)
        figures = take_turns(lambda: engine_prefill(engine, prompt_ids), lambda: raw_prefill(raw, prompt_ids), runs)
        rows.append(row(name, "tok/s", *figures, "raw xllamacpp on Q4_1", Q4_1_TARGET, "higher"))
    return rows


def _q4_1() -> Path:
    from llmmagic.core.models.demo import demo_gguf

    return demo_gguf(emit=lambda event: None, cancel=CancelToken())
