"""The paths that vLLM counts with, over a real tokenizer: exact totals, and an answer to every failure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmmagic.core.errors import LLMMagicError
from llmmagic.core.events import ChatFinished, ChatStarted
from llmmagic.core.session import Session
from tests.core.engines.openai.servers import Told, delta, end, event, says

CARD = {"id": "org/parrot", "owned_by": "vllm", "root": "org/parrot", "max_model_len": 300}


class Vllm:
    """``/tokenize`` and ``/detokenize`` as vLLM answers them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.asked = 0

    def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["model"] == "org/parrot"
        assert body["add_special_tokens"] is False
        self.asked += 1
        if "prompt" in body:
            ids = self._tokenizer.encode(body["prompt"], add_special_tokens=False)
        else:
            if body["messages"][0]["role"] == "system":
                raise ValueError("System role not supported")
            ids = self._tokenizer.apply_chat_template(
                body["messages"], add_generation_prompt=body["add_generation_prompt"], return_dict=False
            )
        return {"tokens": ids, "count": len(ids), "max_model_len": 300}

    def detokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"prompt": self._tokenizer.decode(body["tokens"], skip_special_tokens=False)}


@pytest.fixture
def vllm(told: Told, tokenizer: Any) -> Vllm:
    vllm = Vllm(tokenizer)
    told.models = {"data": [CARD]}
    told.paths = {"/tokenize": vllm.tokenize, "/detokenize": vllm.detokenize}
    return vllm


@pytest.fixture
def session(told: Told, vllm: Vllm) -> Iterator[Session]:
    session = Session()
    session.load("", base_url=told.address).wait()
    yield session
    session.close()


def test_what_is_counted_is_what_the_server_makes_of_the_messages(session: Session, told: Told, tokenizer: Any) -> None:
    for number in range(5):
        text = f"Question {number}? é😀 " * 2
        told.will(says(delta(content="An answer."), end(usage=None)))
        events = list(session.chat(text, system="Be brief.", max_new_tokens=40))
        started, last = events[0], events[-1]
        assert isinstance(started, ChatStarted)
        assert isinstance(last, ChatFinished)
        sent = told.requests[-1][2]["messages"]
        # This template refuses a system prompt: it goes before the first message, and is counted there.
        assert sent[0]["content"].startswith("Be brief.\n\n")
        want = tokenizer.apply_chat_template(sent, add_generation_prompt=True, return_dict=False)
        assert started.window.prompt_tokens == len(want)
        assert started.window.exact
    assert started.window.dropped_message_ids


def test_a_reply_is_continued_from_its_tokens(session: Session, told: Told, tokenizer: Any) -> None:
    told.will(says(delta(content="The begin"), end("length", usage=None)))
    session.ask("Go on")
    more = event({"choices": [{"text": "ning", "finish_reason": "stop"}]})
    told.will(says(more, b"data: [DONE]\n\n"))
    last = session.continue_reply().wait()
    assert isinstance(last, ChatFinished)
    assert last.text == "The beginning"
    path, _, body = told.requests[-1]
    assert path == "/v1/completions"
    assert body["add_special_tokens"] is False
    assert tokenizer.decode(body["prompt"]).endswith("assistant\nThe begin")


def test_a_draft_costs_few_requests(session: Session, vllm: Vllm) -> None:
    talk = session.new_conversation().id
    session.window(talk, draft="Hel")
    before = vllm.asked
    session.window(talk, draft="Hello")
    assert vllm.asked - before == 1


def test_a_server_that_stops_counting_loses_no_reply(session: Session, told: Told) -> None:
    told.will(says(delta(content="First"), end(usage=None)))
    assert session.ask("One") == "First"
    told.paths.clear()
    with pytest.raises(LLMMagicError):
        session.window(draft="Two")
    with pytest.raises(LLMMagicError):
        session.ask("Two")
    assert [message.content for message in session.conversation().path()] == ["One", "First"]


def test_without_these_paths_it_is_an_estimate(told: Told) -> None:
    told.models = {"data": [CARD]}
    session = Session()
    session.load("", base_url=told.address).wait()
    assert session.info is not None
    assert session.info.context_window == 300
    assert not session.window(draft="Hi").exact
    session.close()
