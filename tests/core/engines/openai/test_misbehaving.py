"""A server that refuses, stutters, breaks off, lies or hangs: nothing of it is lost, and all of it is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.config import GenerationConfig, LoadConfig
from llmmagic.core.engines.base import MessageEngine
from llmmagic.core.engines.openai import retry
from llmmagic.core.engines.openai.address import KEY_ENV
from llmmagic.core.engines.openai.client import Patience
from llmmagic.core.engines.openai.opening import open_server
from llmmagic.core.errors import ContextOverflowError, EngineError, LLMMagicError
from llmmagic.core.events import ChatEvent, ChatFinished, ChatStarted, Notice, TextDelta
from llmmagic.core.operation import CancelToken
from llmmagic.core.session import Session
from tests.core.engines.openai.servers import (
    KEY,
    USAGE,
    Told,
    breaks_after,
    delta,
    end,
    event,
    hangs,
    refuses,
    says,
)


@pytest.fixture
def session(told: Told) -> Iterator[Session]:
    session = Session()
    session.load("org/parrot", base_url=told.address, max_context=1000).wait()
    yield session
    session.close()


def chat(session: Session, prompt: str = "Hello", **settings: Any) -> list[ChatEvent]:
    return list(session.chat(prompt, **settings))


def last_of(events: list[ChatEvent]) -> ChatFinished:
    assert isinstance(events[-1], ChatFinished)
    return events[-1]


def notices(events: list[ChatEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_messages_go_as_messages_and_only_what_was_set_goes_with_them(session: Session, told: Told) -> None:
    told.will(says(delta(role="assistant"), delta(content="Hi "), delta(content="there"), end()))
    assert last_of(chat(session, "Hello", system="Be kind.", max_new_tokens=7)).text == "Hi there"
    chat(session, "Again", max_new_tokens=7, temperature=0, seed=2**40, stop=("END",), top_k=5)
    path, _, first = told.requests[0]
    assert path == "/v1/chat/completions"
    assert first == {
        "model": "org/parrot",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        "max_tokens": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    second = told.requests[1][2]
    assert [message["content"] for message in second["messages"]] == ["Be kind.", "Hello", "Hi there", "Again"]
    assert (second["temperature"], second["stop"], second["top_k"]) == (0, ["END"], 5)
    assert 0 <= second["seed"] < 2**32


def test_a_busy_server_is_asked_again_when_it_says(session: Session, told: Told) -> None:
    told.will(refuses(429, Retry_After="0.3"), refuses(503), says(delta(content="Now"), end()))
    began = time.monotonic()
    events = chat(session)
    assert last_of(events).text == "Now"
    assert time.monotonic() - began >= 0.3
    first, second = notices(events)
    server = told.address.removeprefix("http://").removesuffix("/v1")
    assert first == f"Trying again in 0.3 s (2 of 5): The server {server} failed (HTTP 429): no."
    assert second.endswith(f"s (3 of 5): The server {server} failed (HTTP 503): no.")
    assert [request[2] for request in told.requests] == [told.requests[0][2]] * 3


def test_it_gives_up_after_some_attempts_and_at_once_where_it_would_not_help(session: Session, told: Told) -> None:
    told.will(refuses(500, {"error": "out of \x1b[31mpaint"}))
    with pytest.raises(EngineError, match=r"failed \(HTTP 500\): out of paint\.") as caught:
        chat(session)
    assert "\x1b" not in str(caught.value)
    assert len(told.requests) == retry.ATTEMPTS
    for answer in (
        refuses(400),
        refuses(429, Retry_After="3600"),
        refuses(429, {"error": {"code": "insufficient_quota"}}),
    ):
        told.requests.clear()
        told.will(answer)
        with pytest.raises(EngineError):
            chat(session)
        assert len(told.requests) == 1


def test_nothing_is_asked_twice_once_the_reply_has_begun(told: Told, tmp_path: Path) -> None:
    with ConversationStore(tmp_path / "chats.db") as store:
        session = Session(store=store)
        session.load("", base_url=told.address).wait()
        told.will(breaks_after(delta(content="The half "), delta(content="of it")))
        talk = session.new_conversation()
        with pytest.raises(EngineError, match=r"broke off the reply.*What came is kept"):
            chat(session, conversation=talk.id)
        assert len(told.requests) == 1
        reply = store.load(talk.id).path()[-1]
        assert (reply.content, reply.partial) == ("The half of it", True)
        told.will(says(delta(content="The whole of it"), end()))
        again = session.regenerate(conversation=talk.id).wait()
        assert isinstance(again, ChatFinished)
        assert again.text == "The whole of it"
        session.close()


def test_a_stream_that_ends_without_an_end_is_broken_off(session: Session, told: Told) -> None:
    told.will(says(delta(content="So "), b"data: [DONE]\n\n"))
    with pytest.raises(EngineError, match="broke off"):
        chat(session)


def test_an_error_in_the_middle_of_a_stream_is_said(session: Session, told: Told) -> None:
    for sent in (event({"error": {"message": "out of memory"}}), b'data: {"error": "out of memory"}\n\n'):
        told.will(says(delta(content="So "), sent))
        with pytest.raises(EngineError, match="failed in the middle of the reply: out of memory"):
            chat(session)
    told.will(says(delta(content="So "), b"data: {not json}\n\n"))
    with pytest.raises(EngineError, match="failed in the middle"):
        chat(session)


def test_pieces_that_cut_characters_lines_and_events_in_two(session: Session, told: Told) -> None:
    text = "Ünï 😀 日本\u2028line\u0085end"
    stream = b": a comment\r\n\r\n" + delta(content=text).replace(b"\n\n", b"\r\n\r\n") + end()
    told.will(says(*(stream[index : index + 1] for index in range(len(stream)))))
    assert last_of(chat(session)).text == text


def test_hostile_text_arrives_as_text(session: Session, told: Told) -> None:
    text = "\x1b]0;title\x07<script>alert(1)</script>\u202e data: [DONE]"
    half = event({"choices": [{"delta": {"content": "HALF\0"}, "finish_reason": None}]}).replace(b"HALF", b"\\ud83d")
    told.will(says(delta(content=text), half, end()))
    assert last_of(chat(session)).text == text + "\ufffd\ufffd"


def test_odd_chunks_change_nothing(session: Session, told: Told) -> None:
    odd = [
        {},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"delta": None}]},
        {"choices": "x"},
        {"usage": "many"},
    ]
    wrong = {"choices": [{"delta": {"content": 7, "tool_calls": []}}]}
    told.will(says(*map(event, odd), event(wrong), b"event: ping\ndata:\n\n", delta(content="ok"), end()))
    assert last_of(chat(session)).text == "ok"


@pytest.mark.parametrize("after", [b"", delta(content="Wait ")], ids=["before the answer", "in the middle"])
def test_a_hanging_server_is_left_at_once(session: Session, told: Told, after: bytes) -> None:
    told.will(hangs(after))
    operation = session.chat("Hello")
    for said in operation:
        if isinstance(said, TextDelta if after else ChatStarted):
            break
    while not told.requests:
        time.sleep(0.01)
    began = time.monotonic()
    operation.cancel()
    *_, last = operation
    assert time.monotonic() - began < 2
    assert isinstance(last, ChatFinished)
    assert (last.finish_reason, last.text) == ("cancelled", "Wait " if after else "")
    # The connection is closed, so that the server stops generating.
    assert told.left.wait(10)
    assert told.client_left
    told.will(says(delta(content="Back"), end()))
    assert last_of(chat(session)).text == "Back"


def test_a_server_that_falls_silent_is_not_waited_for_for_ever(told: Told) -> None:
    config = LoadConfig(model_id="", base_url=told.address, max_context=1000)
    patience = Patience(chunk_s=0.3)
    opened = open_server(config, emit=lambda event: None, cancel=CancelToken(), patience=patience)
    assert isinstance(opened.engine, MessageEngine)
    told.will(hangs(delta(content="Wait ")))
    reply = opened.engine.reply([{"role": "user", "content": "Hi"}], 5, GenerationConfig(), CancelToken())
    assert next(iter(reply)) == TextDelta("Wait ")
    with pytest.raises(EngineError, match="fell silent in the middle of the reply"):
        list(reply)
    opened.engine.close()


def test_a_wait_for_another_attempt_can_be_cancelled(session: Session, told: Told) -> None:
    told.will(refuses(429, Retry_After="60"))
    operation = session.chat("Hello")
    for last in operation:
        if isinstance(last, Notice):
            operation.cancel()
    assert isinstance(last, ChatFinished)
    assert last.finish_reason == "cancelled"


def test_reasoning_beside_the_reply_becomes_a_thinking_part(session: Session, told: Told) -> None:
    for name in ("reasoning_content", "reasoning"):
        told.will(says(delta(**{name: "Let me "}), delta(**{name: "see"}), delta(content="4"), end()))
        assert last_of(chat(session)).text == "<think>\nLet me see\n</think>\n\n4"


def test_why_it_ended(session: Session, told: Told) -> None:
    told.will(says(delta(content="cut"), end("length")))
    assert last_of(chat(session, max_new_tokens=5)).finish_reason == "length"
    assert last_of(chat(session, "word " * 400, max_new_tokens=5000, new=True)).finish_reason == "context"
    told.will(says(delta(content="oh"), end("content_filter")))
    events = chat(session)
    assert last_of(events).finish_reason == "stop"
    assert "its filter objects" in notices(events)[0]


def test_stop_texts_are_looked_for_here_too(session: Session, told: Told) -> None:
    told.will(says(delta(content="one EN"), delta(content="D two"), delta(content="more"), end()))
    finished = last_of(chat(session, stop=("END",)))
    assert (finished.text, finished.finish_reason) == ("one ", "stop")


# --- counting without a tokenizer --------------------------------------------------------------------------------


def test_estimates_are_marked_and_learn_from_the_servers_counts(session: Session, told: Told) -> None:
    assert not session.window(draft="Hello").exact
    assert not session.status().exact
    answer = "word " * 60
    # This server's tokenizer makes two tokens of each word, and its template adds 100.
    usage = {"prompt_tokens": 120, "completion_tokens": 120, "total_tokens": 240}
    told.will(says(delta(content=answer), end(usage=usage)))
    first = last_of(chat(session, "hello there"))
    assert (first.stats.prompt_tokens, first.stats.completion_tokens, first.stats.exact) == (120, 120, True)
    assert not first.window.exact
    assert first.window.prompt_tokens == pytest.approx(240, rel=0.1)
    draft = next(s.tokens for s in session.window(draft="word " * 50).segments if s.kind == "draft")
    assert draft == pytest.approx(100, rel=0.15)


def test_without_usage_the_figures_are_estimates(session: Session, told: Told) -> None:
    told.will(says(delta(content="one two three four"), end(usage=None)))
    stats = last_of(chat(session)).stats
    assert not stats.exact
    assert stats.completion_tokens == 4


def test_turns_are_dropped_by_estimate_and_a_server_that_disagrees_is_believed(session: Session, told: Told) -> None:
    told.will(says(delta(content="word " * 100), end(usage=None)))
    reports = [
        started.window
        for n in range(6)
        for started in chat(session, f"{n} " * 50, max_new_tokens=200)
        if isinstance(started, ChatStarted)
    ]
    assert sum(report.newly_dropped_turns for report in reports) >= 1
    assert all(report.prompt_tokens + 200 <= 1000 for report in reports)
    assert session.window(draft="x").prompt_tokens < 600
    error = {
        "error": {
            "message": "too long",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 950,
            "n_ctx": 1000,
        }
    }
    told.will(refuses(400, error))
    with pytest.raises(ContextOverflowError) as caught:
        chat(session, "x", max_new_tokens=200)
    assert caught.value.needed_tokens == 950
    told.will(says(delta(content="ok"), end(usage=None)))
    started = next(iter(chat(session, "y", max_new_tokens=200)))
    assert isinstance(started, ChatStarted)
    assert started.window.newly_dropped_turns >= 1


def test_a_template_that_differs_from_ours_is_noticed(told: Told, tiny_folder: Path) -> None:
    told.models = {"data": [{"id": str(tiny_folder), "owned_by": "tests"}]}
    session = Session()
    session.load("", base_url=told.address, max_context=1000).wait()
    window = session.window(draft="Hello")
    assert window.exact
    told.will(says(delta(content="ok"), end(usage={**USAGE, "prompt_tokens": window.prompt_tokens})))
    assert notices(chat(session)) == []
    told.will(says(delta(content="ok"), end(usage={**USAGE, "prompt_tokens": 99})))
    assert "The server counted 99 tokens" in notices(chat(session))[0]
    assert not session.window(draft="Hello").exact
    session.close()


def test_a_reply_is_not_continued_where_the_server_takes_only_messages(session: Session, told: Told) -> None:
    told.will(says(delta(content="cut"), end("length")))
    chat(session)
    with pytest.raises(EngineError, match=r"cannot go on with a reply\. Regenerate it instead"):
        session.continue_reply().wait()
    assert session.conversation().path()[-1].content == "cut"


# --- loading -----------------------------------------------------------------------------------------------------


def load_error(told: Told, model: str = "", **settings: Any) -> str:
    with pytest.raises(LLMMagicError) as caught:
        Session().load(model, base_url=told.address, **settings).wait()
    return str(caught.value)


def test_a_server_that_is_still_loading_is_waited_for(told: Told) -> None:
    listing, tries = told.models, []

    def busy(handler: Any) -> None:
        tries.append(1)
        if len(tries) == 2:
            told.models = listing
        refuses(503, {"error": {"message": "Loading model", "code": 503}})(handler)

    told.models = busy
    session = Session()
    events = list(session.load("", base_url=told.address))
    assert ["Loading model" in event.text for event in events if isinstance(event, Notice)] == [True, True, False]
    session.close()


def test_what_is_no_list_of_models(told: Told) -> None:
    for models in ([], {"data": 7}, "hello"):
        told.models = models
        assert "does not answer like an OpenAI-compatible server: /models is no list of models" in load_error(told)
    told.models = {"data": []}
    assert "does not say which models it has" in load_error(told)
    told.models = refuses(200, b"<html>")
    assert "no JSON" in load_error(told)


def test_many_models_are_listed_short_and_the_nearest_is_named(told: Told) -> None:
    told.models = {"data": [{"id": f"org/model-{n}\x1b[31m"} for n in range(40)]}
    message = load_error(told, "org/model-7x")
    assert "and 28 more. Did you mean 'org/model-7" in message
    assert "\x1b" not in message


def test_a_redirect_is_not_followed_and_gets_no_key(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    told.models = refuses(307, Location="http://127.0.0.1:9/v1/models")
    assert "sends us elsewhere (HTTP 307)" in load_error(told)


@pytest.mark.parametrize(
    ("models", "paths", "window"),
    [
        ([{"id": "m", "owned_by": "vllm", "max_model_len": 4096}], {}, 4096),
        (
            [
                {"id": "m", "owned_by": "vllm", "max_model_len": None, "parent": "base"},
                {"id": "base", "max_model_len": 700},
            ],
            {},
            700,
        ),
        ([{"id": "m", "context_length": 32000}], {}, 32000),
        (
            [{"id": "m"}],
            {
                "/api/version": {"version": "1"},
                "/api/show": {"parameters": "stop x\nnum_ctx      2048", "model_info": {}},
            },
            2048,
        ),
        (
            [{"id": "m:latest"}],
            {"/api/version": {"version": "1"}, "/api/ps": {"models": [{"model": "m:latest", "context_length": 9000}]}},
            9000,
        ),
        (
            [{"id": "m"}],
            {"/api/version": {"version": "1"}, "/api/show": {"model_info": {"llama.context_length": 131072}}},
            4096,
        ),
        ([{"id": "m"}], {"/api/v0/models": {"data": []}, "/api/v0/models/m": {"loaded_context_length": 5000}}, 5000),
    ],
    ids=["vLLM", "vLLM adapter", "OpenRouter", "Ollama set", "Ollama loaded", "Ollama default", "LM Studio"],
)
def test_the_limit_is_taken_from_what_the_server_tells(
    told: Told, models: list[dict[str, Any]], paths: dict[str, Any], window: int
) -> None:
    told.models, told.paths = {"data": models}, paths
    session = Session()
    session.load("m", base_url=told.address).wait()
    assert session.info is not None
    assert session.info.context_window == window
    session.load("m", base_url=told.address, max_context=99).wait()
    assert session.info.context_window == 99
    session.close()


def test_where_nobody_tells_the_limit_that_is_said(told: Told) -> None:
    session = Session()
    events = list(session.load("", base_url=told.address))
    assert "8,192 tokens are assumed" in next(event.text for event in events if isinstance(event, Notice))
    session.close()
