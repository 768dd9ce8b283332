"""What crosses the border between app and worker comes back as it was, and nothing else gets through."""

from __future__ import annotations

import inspect
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmmagic.core import errors
from llmmagic.core.config import GenerationConfig, LoadConfig
from llmmagic.core.engines.base import Capabilities
from llmmagic.core.engines.wire import from_error, from_line, to_error, to_line
from llmmagic.core.errors import ContextOverflowError, EngineError, LLMMagicError, ModelMemoryError
from llmmagic.core.events import (
    Choice,
    GenerationFinished,
    GenerationStats,
    LoadProgress,
    ModelInfo,
    Notice,
    PrefillProgress,
    TextDelta,
)

INFO = ModelInfo(
    "tiny-random", None, "transformers", "LlamaForCausalLM", 1, 2, 3, 4, "none", "float32", "cpu", 2048, 5,
    adapters=("a", "b"), choices=(Choice("dtype", "float32", "why"),),
)  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        LoadProgress("weights", 1, None, "tensors", "x"),
        Notice("text", "warning", "dtype"),
        PrefillProgress(1, 2, 0),
        GenerationFinished("hi", (1, 2), "stop", GenerationStats(1, 0, 2, 0.1, 0.2, 10.0)),
        INFO,
        Capabilities(adapters=True),
        LoadConfig(model_id="demo", max_context=512),
        GenerationConfig(seed=3, temperature=0.5, stop=("a", "b"), stop_token_ids=(7,)),
        {"bos_token": "<s>", "nested": {"n": None}},
    ],
)
def test_values_come_back_as_they_were(value: Any) -> None:
    line = to_line({"id": 1, "value": value})
    assert line.count(b"\n") == 1
    assert from_line(line) == {"id": 1, "value": value}


@given(st.text(st.characters(), max_size=50), st.lists(st.integers(0, 10**6), max_size=5))
def test_any_text_crosses(text: str, ids: list[int]) -> None:
    message = {"id": 1, "events": (TextDelta(text + "\ud83d\n", tuple(ids)),)}
    assert from_line(to_line(message)) == message


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"[1]\n",
        b"\xff\xfe\n",
        json.dumps({"id": 1, "events": [{"$": "Popen", "args": "ls"}]}).encode(),
        json.dumps({"id": 1, "events": [{"$": "TextDelta", "no_such": 1}]}).encode(),
        pickle.dumps({"id": 1}),
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(EngineError, match="model process sent something"):
        from_line(line)


def test_what_is_not_on_the_list_is_not_sent() -> None:
    with pytest.raises(TypeError, match="set does not cross"):
        to_line({"id": 1, "value": {1, 2}})


ALL_ERRORS = [
    cls
    for cls in vars(errors).values()
    if inspect.isclass(cls) and issubclass(cls, LLMMagicError) and cls not in (ContextOverflowError, ModelMemoryError)
]


@pytest.mark.parametrize("cls", ALL_ERRORS)
def test_errors_keep_type_message_and_hint(cls: type[LLMMagicError]) -> None:
    error = to_error(from_line(to_line(from_error(cls("What is wrong.", hint="What to do.")))))
    assert type(error) is cls
    assert (error.message, error.hint, str(error)) == ("What is wrong.", "What to do.", "What is wrong. What to do.")


def test_errors_keep_their_figures() -> None:
    overflow = to_error(from_error(ContextOverflowError("m", needed_tokens=7, context_window=5, hint="h")))
    assert isinstance(overflow, ContextOverflowError)
    assert (overflow.needed_tokens, overflow.context_window, overflow.args) == (7, 5, ("m",))
    memory = to_error(from_error(ModelMemoryError("m", needed_bytes=9, free_bytes=1, device="cuda:0")))
    assert isinstance(memory, ModelMemoryError)
    assert (memory.needed_bytes, memory.free_bytes, memory.device) == (9, 1, "cuda:0")


def test_an_error_of_another_module_becomes_its_nearest_known_one() -> None:
    class Special(EngineError):
        pass

    assert type(to_error(from_error(Special("m")))) is EngineError


@pytest.mark.parametrize("name", ["Path", "did_you_mean", "no_such"])
def test_only_our_errors_are_made_again(name: str) -> None:
    assert type(to_error({"class": name, "state": {"message": "m"}})) is EngineError
