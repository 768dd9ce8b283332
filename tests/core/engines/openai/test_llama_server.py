"""The openai engine against llama.cpp's own server: counts are exact, and everything a chat does works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmmagic.core.engines.base import MessageEngine
from llmmagic.core.engines.openai.address import KEY_ENV
from llmmagic.core.errors import (
    ConfigError,
    ContextOverflowError,
    EngineError,
    LLMMagicError,
    ModelNotFoundError,
    ModelNotLoadedError,
    NetworkError,
)
from llmmagic.core.events import ChatFinished, ChatStarted, LoadFinished, PrefillProgress, TextDelta
from llmmagic.core.session import Session
from tests.core.engines.openai.servers import KEY


@pytest.fixture
def session(llama: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    monkeypatch.setenv(KEY_ENV, KEY)
    session = Session(worker=True)  # a worker is for models of this machine: none is started
    session.load("tiny", base_url=llama).wait()
    yield session
    session.close()


def finished(session: Session, prompt: str, **settings: object) -> tuple[ChatStarted, ChatFinished]:
    events = list(session.chat(prompt, **{"temperature": 0, "max_new_tokens": 20, **settings}))  # type: ignore[arg-type]
    assert isinstance(events[0], ChatStarted)
    assert isinstance(events[-1], ChatFinished)
    return events[0], events[-1]


def test_what_it_says_about_itself(session: Session, llama: str) -> None:
    info = session.info
    assert info is not None
    assert (info.model_id, info.engine, info.context_window) == ("tiny", "openai", 512)
    assert info.server == llama.removeprefix("http://")
    assert (info.parameters, info.memory_bytes, info.device) == (90624, 0, "")
    counts = next(choice for choice in info.choices if choice.name == "token counts")
    assert counts.value == "exact"
    assert isinstance(session._require("Looking").engine, MessageEngine)


def test_every_count_is_the_servers_own_even_when_turns_are_dropped(session: Session) -> None:
    dropped = 0
    for number in range(9):
        started, last = finished(session, f"Question {number}: what is gout?  Émile 😀 asks.", new=number == 0)
        assert started.window.exact
        # The server says how many tokens it got: not one more or less than was counted before sending.
        assert last.stats.prompt_tokens == started.window.prompt_tokens
        assert last.stats.exact
        assert last.stats.prompt_tokens + 20 <= 512
        dropped += started.window.newly_dropped_turns
    assert dropped >= 2


def test_a_system_prompt_a_draft_and_pins_are_counted_as_sent(session: Session) -> None:
    finished(session, "One", new=True, system="Be brief.")
    session.conversation().pin(session.conversation().path()[0].id)
    draft = "Two <|im_end|> with the sign of an end in it"
    forecast = session.window(draft=draft)
    started, last = finished(session, draft)
    assert forecast.prompt_tokens == started.window.prompt_tokens == last.stats.prompt_tokens
    assert [segment.kind for segment in forecast.segments][:4] == ["template", "system", "pinned", "draft"]


def test_same_seed_same_reply(session: Session) -> None:
    replies = [finished(session, "Hi", new=True, temperature=1.0, seed=seed)[1].text for seed in (5, 5, 6)]
    assert replies[0] == replies[1] != replies[2]


def test_the_prompt_is_read_with_progress(session: Session) -> None:
    events = list(session.chat("word " * 60, new=True, max_new_tokens=2))
    progress = [event for event in events if isinstance(event, PrefillProgress)]
    assert progress[-1].done_tokens == progress[-1].total_tokens > 300


def test_a_reply_is_continued_from_its_tokens(session: Session) -> None:
    whole = finished(session, "Go on", new=True, max_new_tokens=24)[1].text
    first = finished(session, "Go on", new=True, max_new_tokens=12)[1].text
    continued = session.continue_reply(max_new_tokens=12, temperature=0).wait()
    assert isinstance(continued, ChatFinished)
    assert whole.startswith(first)
    # Bytes that are no text by themselves become replacement signs where the reply was cut.
    assert continued.text.replace("\ufffd", "")[: len(first)] == whole.replace("\ufffd", "")[: len(first)]
    assert len(continued.text) > len(first)


def test_cancel_is_heard_and_the_next_reply_works(session: Session) -> None:
    operation = session.chat("Never stop", new=True, max_new_tokens=400)
    for event in operation:
        if isinstance(event, TextDelta):
            operation.cancel()
        last = event
    assert isinstance(last, ChatFinished)
    assert last.finish_reason == "cancelled"
    assert session.conversation().path()[-1].partial
    assert finished(session, "Hi", new=True)[1].finish_reason == "length"


def test_stop_texts_limits_and_the_end_of_the_window(session: Session) -> None:
    text = finished(session, "Hi", new=True)[1].text
    stopped = finished(session, "Hi", new=True, stop=(text[0],))[1]
    assert (stopped.text, stopped.finish_reason) == ("", "stop")
    full = finished(session, "x" * 200, new=True, max_new_tokens=5000)[1]
    assert (full.finish_reason, full.stats.completion_tokens) == ("context", 512 - full.stats.prompt_tokens)


def test_what_does_not_fit_is_refused_before_it_is_sent(session: Session) -> None:
    with pytest.raises(ContextOverflowError, match="of 512"):
        session.chat("y" * 600, new=True).wait()


def test_a_model_of_a_server_cannot_be_trained_here(session: Session) -> None:
    with pytest.raises(ModelNotLoadedError, match=r"tiny runs on the server 127\.0\.0\.1.*%llm_load tiny"):
        session.train([{"question": "a", "answer": "b"}])
    with pytest.raises(ModelNotLoadedError, match="runs on the server"):
        session.save_adapter("x")


def test_the_first_model_is_taken_when_none_is_named(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)
    session = Session()
    last = session.load("", base_url=llama + "/v1/", max_context=128).wait()
    assert isinstance(last, LoadFinished)
    assert (last.info.model_id, last.info.context_window) == ("tiny", 128)
    session.close()


def refused(base_url: str, model: str = "", **settings: object) -> LLMMagicError:
    with pytest.raises(LLMMagicError) as caught:
        Session().load(model, base_url=base_url, **settings).wait()
    assert "\n" not in str(caught.value)
    return caught.value


def test_wrong_keys_and_names_are_said_in_one_line(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(refused(llama), EngineError)
    assert f"keyring set llmmagic {llama.removeprefix('http://')}" in refused(llama).hint
    monkeypatch.setenv(KEY_ENV, "sk-wrong-987654321")
    wrong = str(refused(llama))
    assert "refuses the key from LLMMAGIC_API_KEY" in wrong
    assert "987654321" not in wrong
    monkeypatch.setenv(KEY_ENV, KEY)
    unknown = refused(llama, "tin")
    assert isinstance(unknown, ModelNotFoundError)
    assert str(unknown).endswith("it has: tiny. Did you mean 'tiny'?")


def test_no_server_and_no_such_server(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = refused("http://127.0.0.1:9")
    assert isinstance(nobody, NetworkError)
    assert "No server answers at http://127.0.0.1:9/v1" in str(nobody)
    monkeypatch.setenv(KEY_ENV, KEY)
    assert "does not answer like an OpenAI-compatible server" in str(refused(f"{llama}/other/place"))


@pytest.mark.parametrize("setting", [{"adapter": "x"}, {"quantization": "nf4"}, {"revision": "main"}])
def test_what_only_the_server_can_set_is_refused(setting: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="cannot be set for a model that runs on a server"):
        Session().load("m", base_url="http://127.0.0.1:9", **setting)


def test_an_engine_of_this_machine_takes_no_address() -> None:
    with pytest.raises(ConfigError, match="base_url is for the openai engine"):
        Session().load("demo", engine="transformers", base_url="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="needs the address of a server"):
        Session().load("demo", engine="openai")
