"""The worker engine with real processes: they answer, stop, die, come back, and end when the app does."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from llmmagic.core.config import GenerationConfig, LoadConfig, data_dir
from llmmagic.core.engines import worker_handle
from llmmagic.core.engines.base import Capabilities, Engine
from llmmagic.core.engines.opened import OpenedEngine, open_engine
from llmmagic.core.engines.worker import WorkerEngine
from llmmagic.core.errors import ContextOverflowError, EngineError, ModelNotFoundError
from llmmagic.core.events import GenerationFinished, LoadEvent, LoadProgress, PrefillProgress, TextDelta
from llmmagic.core.operation import CancelledOperation, CancelToken

HELLO = [{"role": "user", "content": "Hello"}]
TINY = LoadConfig(model_id="tiny-random")
# Greedy decoding of the tiny model repeats itself and never ends; sampling may end at any token.
LONG = GenerationConfig(max_new_tokens=1900, temperature=0)


def open_worker(config: LoadConfig = TINY, emit: Callable[[LoadEvent], None] = lambda event: None) -> OpenedEngine:
    return WorkerEngine.load(config, emit=emit, cancel=CancelToken())


def worker_of(opened: OpenedEngine) -> WorkerEngine:
    assert isinstance(opened.engine, WorkerEngine)
    return opened.engine


def finished(engine: Engine, ids: list[int], config: GenerationConfig) -> GenerationFinished:
    last = list(engine.generate(ids, config, CancelToken()))[-1]
    assert isinstance(last, GenerationFinished)
    return last


def wait_until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def kill(pid: int | None) -> None:
    assert pid is not None
    psutil.Process(pid).kill()


@pytest.fixture(scope="module")
def opened() -> Iterator[OpenedEngine]:
    opened = open_worker()
    yield opened
    opened.engine.close()


@pytest.fixture
def prompt(opened: OpenedEngine) -> list[int]:
    return opened.template.encode(HELLO)


def test_it_generates_what_the_engine_in_this_process_does(opened: OpenedEngine, prompt: list[int]) -> None:
    local = open_engine(TINY, worker=False, emit=lambda event: None, cancel=CancelToken())
    assert opened.loaded is None
    assert opened.info == local.info
    assert (opened.engine.name, opened.engine.context_window) == ("transformers", 2048)
    assert opened.engine.capabilities == Capabilities(adapters=True, training=True, logprobs=True)
    assert isinstance(opened.engine, Engine)
    assert prompt == local.template.encode(HELLO)
    for config in (
        GenerationConfig(max_new_tokens=60, seed=4, temperature=1.0),
        GenerationConfig(max_new_tokens=60, temperature=0, stop=("`",)),
    ):
        ours, theirs = finished(opened.engine, prompt, config), finished(local.engine, prompt, config)
        assert (ours.token_ids, ours.text, ours.finish_reason) == (theirs.token_ids, theirs.text, theirs.finish_reason)


def test_events_add_up_and_quick_tokens_come_together(opened: OpenedEngine, prompt: list[int]) -> None:
    events = list(opened.engine.generate(prompt, GenerationConfig(max_new_tokens=200, seed=2), CancelToken()))
    last = events[-1]
    assert isinstance(last, GenerationFinished)
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert "".join(delta.text for delta in deltas) == last.text
    assert tuple(i for delta in deltas for i in delta.token_ids) == last.token_ids
    assert isinstance(events[0], PrefillProgress)


def test_the_cache_lives_in_the_child_until_it_is_reset(opened: OpenedEngine, prompt: list[int]) -> None:
    short = GenerationConfig(max_new_tokens=2, temperature=0)
    finished(opened.engine, prompt, short)
    assert finished(opened.engine, prompt, short).stats.cached_tokens == len(prompt) - 1
    opened.engine.reset()
    assert finished(opened.engine, prompt, short).stats.cached_tokens == 0


def test_the_child_reads_ahead_beside_the_last_prompt(opened: OpenedEngine, prompt: list[int]) -> None:
    short = GenerationConfig(max_new_tokens=2, temperature=0)
    other = [*range(60, 90)] * 4
    opened.engine.reset()
    finished(opened.engine, prompt, short)
    assert opened.engine.prefill_ahead(other, CancelToken()) == len(other)
    assert finished(opened.engine, prompt, short).stats.cached_tokens == len(prompt) - 1
    assert finished(opened.engine, [*other, 5], short).stats.cached_tokens == len(other)
    cancelled = CancelToken()
    cancelled.request()
    assert opened.engine.prefill_ahead([7] * 1500, cancelled) < 1500


def test_cancel_reaches_the_child(opened: OpenedEngine, prompt: list[int]) -> None:
    cancel = CancelToken()
    events = []
    for event in opened.engine.generate(prompt, LONG, cancel):
        events.append(event)
        if isinstance(event, TextDelta):
            cancel.request()
    last = events[-1]
    assert isinstance(last, GenerationFinished)
    assert last.finish_reason == "cancelled"
    assert len(last.token_ids) < 1000


def test_a_loop_that_is_left_early_stops_the_child(opened: OpenedEngine, prompt: list[int]) -> None:
    for event in opened.engine.generate(prompt, LONG, CancelToken()):
        if isinstance(event, TextDelta):
            break
    # The next request has the child for itself, and its events are its own.
    last = finished(opened.engine, prompt, GenerationConfig(max_new_tokens=3, temperature=0))
    assert len(last.token_ids) == 3


def test_errors_of_the_child_are_ours(opened: OpenedEngine) -> None:
    with pytest.raises(ContextOverflowError) as caught:
        finished(opened.engine, [1] * 3000, LONG)
    assert (caught.value.needed_tokens, caught.value.context_window) == (3001, 2048)
    with pytest.raises(EngineError, match=r"outside 0\.\.258"):
        finished(opened.engine, [999], LONG)


def test_death_while_generating_is_told_and_a_restart_goes_on(prompt: list[int]) -> None:
    opened = open_worker()
    engine = worker_of(opened)
    before = finished(engine, prompt, GenerationConfig(max_new_tokens=9, seed=1))
    reply = engine.generate(prompt, LONG, CancelToken())
    parts = [next(reply) for _ in range(4)]
    kill(engine.pid)
    with pytest.raises(EngineError, match="model process") as caught:
        parts += list(reply)
    assert not any(isinstance(part, GenerationFinished) for part in parts)
    if sys.platform != "win32":
        assert "SIGKILL" in caught.value.message
        assert "memory" in caught.value.message
    assert "worker.log" in caught.value.hint
    assert (engine.alive, engine.pid) == (False, None)
    with pytest.raises(EngineError, match="model process"):
        finished(engine, prompt, LONG)

    progress: list[LoadEvent] = []
    engine.restart(emit=progress.append, cancel=CancelToken())
    assert engine.alive
    assert any(isinstance(event, LoadProgress) for event in progress)
    after = finished(engine, prompt, GenerationConfig(max_new_tokens=9, seed=1))
    assert (after.token_ids, after.stats.cached_tokens) == (before.token_ids, 0)

    pid = engine.pid
    engine.close()
    engine.close()
    assert not engine.alive
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(EngineError, match="closed"):
        finished(engine, prompt, LONG)


def test_close_from_another_thread_ends_a_reply(prompt: list[int]) -> None:
    engine = worker_of(open_worker())
    reply = engine.generate(prompt, LONG, CancelToken())
    next(reply)
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(EngineError, match="closed"):
        list(reply)
    closer.join()


def test_an_engine_that_is_forgotten_ends_its_process() -> None:
    engine = worker_of(open_worker())
    pid = engine.pid
    assert pid is not None
    del engine
    gc.collect()
    wait_until(lambda: not psutil.pid_exists(pid))


def test_a_model_that_is_not_there_is_the_same_error_as_in_this_process(tmp_path: Path) -> None:
    before = len(psutil.Process().children())
    with pytest.raises(ModelNotFoundError) as caught:
        open_worker(LoadConfig(model_id=str(tmp_path / "nothing")))
    assert "nothing" in caught.value.message
    assert len(psutil.Process().children()) == before


def test_a_load_can_be_cancelled_even_if_it_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    # The child needs seconds to import its libraries, in which nothing listens.
    monkeypatch.setattr(worker_handle, "_CANCEL_LOAD_S", 0.1)
    before = len(psutil.Process().children())
    cancel = CancelToken()
    cancel.request()
    start = time.monotonic()
    with pytest.raises(CancelledOperation):
        WorkerEngine.load(TINY, emit=lambda event: None, cancel=cancel)
    assert time.monotonic() - start < 10
    assert len(psutil.Process().children()) == before


APP = """
import sys, time
from llmmagic.core.config import GenerationConfig, LoadConfig
from llmmagic.core.engines.opened import open_engine
from llmmagic.core.operation import CancelToken

cancel = CancelToken()
opened = open_engine(LoadConfig(model_id="tiny-random"), worker=True, emit=lambda event: None, cancel=cancel)
heavy = sorted({"torch", "transformers", "numpy"} & set(sys.modules))
ids = opened.template.encode([{"role": "user", "content": "Hello"}])
reply = opened.engine.generate(ids, GenerationConfig(max_new_tokens=1900, temperature=0), cancel)
next(reply)
print(opened.engine.pid, *heavy, flush=True)
time.sleep(60)
"""


def test_the_app_imports_nothing_heavy_and_takes_its_worker_along_however_it_ends() -> None:
    app = subprocess.Popen([sys.executable, "-c", APP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert app.stdout is not None
    assert app.stderr is not None
    said = app.stdout.readline().split()
    assert len(said) == 1, said  # the worker's pid, and no heavy module
    pid = int(said[0])
    assert psutil.pid_exists(pid)
    app.kill()
    app.wait()
    wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert app.stderr.read() == ""
    app.stdout.close()
    app.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are a POSIX matter")
def test_an_interrupt_in_the_terminal_does_not_reach_the_worker(opened: OpenedEngine, prompt: list[int]) -> None:
    pid = worker_of(opened).pid
    assert pid is not None
    assert os.getsid(pid) != os.getsid(0)
    os.kill(pid, signal.SIGINT)
    assert len(finished(opened.engine, prompt, GenerationConfig(max_new_tokens=3, temperature=0)).token_ids) == 3


def test_the_childs_output_goes_to_a_log_and_not_to_the_terminal(
    opened: OpenedEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(EngineError):
        finished(opened.engine, [999], LONG)
    assert capfd.readouterr() == ("", "")
    assert "outside 0..258" in (data_dir() / "logs" / "worker.log").read_text()
