"""Operations: events in order, errors raised where they are read, interrupts that lose nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from llmmagic.core.errors import EngineError, ModelLoadError
from llmmagic.core.operation import CancelledOperation, CancelToken, Operation

Emit = Callable[[int], None]


def nothing() -> None:
    """An operation that frees nothing."""


def test_events_come_in_order_and_the_session_is_free_before_the_last() -> None:
    free = threading.Event()

    def work(emit: Emit, token: CancelToken) -> int:
        emit(1)
        emit(2)
        return 3

    operation = Operation("count", work, on_end=free.set)
    seen = []
    for event in operation:
        if event == 3:
            assert free.is_set()
        seen.append(event)
    assert seen == [1, 2, 3]
    assert not operation.running


def test_an_error_is_raised_after_the_events_before_it() -> None:
    def work(emit: Emit, token: CancelToken) -> int:
        emit(1)
        raise ModelLoadError("broken")

    operation = Operation("load", work, on_end=nothing)
    assert next(operation) == 1
    with pytest.raises(ModelLoadError, match="broken"):
        next(operation)
    with pytest.raises(StopIteration):
        next(operation)


def test_wait_gives_the_last_event_once() -> None:
    operation = Operation("count", lambda emit, token: 7, on_end=nothing)
    assert operation.wait() == 7
    with pytest.raises(EngineError, match="already read"):
        operation.wait()


def test_the_first_interrupt_cancels_and_the_second_raises() -> None:
    def work(emit: Emit, token: CancelToken) -> int:
        while not token.requested:
            time.sleep(0.005)
        return -1

    operation = Operation("count", work, on_end=nothing)
    operation.interrupt()
    assert not operation.token.forced
    with pytest.raises(KeyboardInterrupt):
        operation.interrupt()
    assert operation.token.forced
    assert operation.wait() == -1


def test_ticking_fills_the_waits_and_raises_the_error_at_the_end() -> None:
    go = threading.Event()

    def work(emit: Emit, token: CancelToken) -> int:
        emit(1)
        go.wait(5)
        raise ModelLoadError("broken")

    seen: list[int | None] = []

    def read() -> None:
        for event in Operation("tick", work, on_end=nothing).ticking(0.01):
            seen.append(event)
            if len(seen) > 3:
                go.set()

    with pytest.raises(ModelLoadError, match="broken"):
        read()
    assert seen[0] == 1
    assert set(seen[1:]) == {None}


def test_leaving_a_loop_cancels_the_work() -> None:
    ended = threading.Event()

    def work(emit: Emit, token: CancelToken) -> int:
        for number in range(10_000):
            token.check()
            emit(number)
            time.sleep(0.001)
        return -1

    for event in Operation("count", work, on_end=ended.set):
        if event == 3:
            break
    assert ended.wait(timeout=5)


def test_dropping_an_operation_unread_warns() -> None:
    def work(emit: Emit, token: CancelToken) -> int:
        while not token.requested:
            time.sleep(0.005)
        return 0

    with pytest.warns(RuntimeWarning, match="running load operation was dropped"):
        Operation("load", work, on_end=nothing)


def test_check_leaves_only_when_asked_to() -> None:
    token = CancelToken()
    token.check()
    token.request()
    with pytest.raises(CancelledOperation):
        token.check()


# "waiting" comes from the work, once the loop is seen to wait for the next event: an interrupt that arrives in the body
# of the loop, however short it is, leaves it like any other.
SCRIPT = """
import sys, threading, time
from llmmagic.core.operation import Operation

def work(emit, token):
    emit("started")
    reader = threading.main_thread().ident
    while not read or sys._current_frames()[reader].f_code.co_name != "_get":
        time.sleep(0.01)
    print("waiting", flush=True)
    while not token.requested:
        time.sleep(0.01)
    return "stopped"

read = []
for event in Operation("train", work, on_end=lambda: None):
    print(event, flush=True)
    read.append(event)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to a child process")
def test_ctrl_c_in_a_script_ends_with_the_last_event() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in range(2)] == ["started\n", "waiting\n"]
        child.send_signal(signal.SIGINT)
        assert child.stdout.read() == "stopped\n"
        assert child.wait(timeout=10) == 0
