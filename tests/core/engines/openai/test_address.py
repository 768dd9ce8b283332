"""Where the server is, where its key comes from, and that nobody else gets it."""

from __future__ import annotations

import json
import logging
import pickle
import sys
from pathlib import Path

import pytest

from llmmagic.core.chat.export import export
from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.config import LoadConfig
from llmmagic.core.engines.openai.address import ApiKey, check_key, find_key, parse_address
from llmmagic.core.engines.openai.retry import retry_after
from llmmagic.core.errors import ConfigError, EngineError, LLMMagicError
from llmmagic.core.session import Session
from tests.core.engines.openai.servers import KEY, Told, delta, end, refuses, says


@pytest.mark.parametrize(
    ("text", "base", "root"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1", "http://localhost:8000"),
        (" http://localhost:8000/v1/ ", "http://localhost:8000/v1", "http://localhost:8000"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1", "https://openrouter.ai/api"),
        ("https://x.example/v1beta/openai", "https://x.example/v1beta/openai", "https://x.example/v1beta/openai"),
        ("http://[::1]:9", "http://[::1]:9/v1", "http://[::1]:9"),
    ],
)
def test_addresses(text: str, base: str, root: str) -> None:
    address = parse_address(text)
    assert (address.base, address.root) == (base, root)


@pytest.mark.parametrize(
    "text",
    ["", "localhost:8000", "ftp://x/v1", "http://", "http://a b/", "http://x:99999/", "http://x/?a=b", "http://x/#f"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        LoadConfig(model_id="m", base_url=text)


def test_an_address_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        LoadConfig(model_id="m", base_url="http://me:hunter2@localhost:8000/v1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "secure", "local"),
    [
        ("http://127.0.0.1:8000", True, True),
        ("http://127.8.8.8", True, True),
        ("http://[::1]", True, True),
        ("http://localhost", True, True),
        ("http://me.localhost", True, True),
        ("http://localhost.example.com", False, False),
        ("http://192.168.1.5:8000", False, False),
        ("http://127.0.0.1.example.com", False, False),
        ("https://example.com", True, False),
    ],
)
def test_a_key_is_not_sent_where_others_can_read_it(text: str, secure: bool, local: bool) -> None:
    address = parse_address(text)
    assert (address.secure, address.local) == (secure, local)
    key = ApiKey(KEY, "LLMMAGIC_API_KEY")
    check_key(address, None, over_http=False)
    check_key(address, key, over_http=True)
    if secure:
        check_key(address, key, over_http=False)
        return
    with pytest.raises(ConfigError, match=r"not sent to .* over plain http.*--key-over-http") as caught:
        check_key(address, key, over_http=False)
    assert KEY not in str(caught.value)


def test_the_key_of_openai_is_for_openai_alone() -> None:
    environ = {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://127.0.0.1:8000/v1/"}
    found = find_key(parse_address("https://api.openai.com/v1"), environ)
    assert found is not None
    assert found.source == "OPENAI_API_KEY"
    assert find_key(parse_address("http://127.0.0.1:8000"), environ) is not None
    assert find_key(parse_address("http://127.0.0.1:8001"), environ) is None
    assert find_key(parse_address("https://api.openai.com.example.org/v1"), environ) is None
    ours = find_key(parse_address("https://example.org"), {**environ, "LLMMAGIC_API_KEY": "ours"})
    assert ours is not None
    assert ours.header() == {"Authorization": "Bearer ours"}


def test_the_keyring_has_one_key_for_each_server(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")
    from keyring.backend import KeyringBackend
    from keyring.errors import KeyringLocked

    class Memory(KeyringBackend):
        priority = 1  # type: ignore[assignment]
        locked = False

        def get_password(self, service: str, username: str) -> str | None:
            if self.locked:
                raise KeyringLocked
            return {("llmmagic", "example.org:8443"): KEY}.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            raise AssertionError("keys are put there by people")

    monkeypatch.undo()  # of what keeps the other tests away from the keyring
    before = keyring.get_keyring()
    memory = Memory()
    keyring.set_keyring(memory)
    try:
        found = find_key(parse_address("https://example.org:8443/v1"), {})
        assert found is not None
        assert found.source == "the keyring"
        assert find_key(parse_address("https://example.org/v1"), {}) is None
        memory.locked = True
        assert find_key(parse_address("https://example.org:8443/v1"), {}) is None
    finally:
        keyring.set_keyring(before)


@pytest.mark.parametrize("text", ["two words", "line\nbreak", "schlüssel", "\x1b"])
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ApiKey(text, "LLMMAGIC_API_KEY")
    assert text not in str(caught.value)


def test_a_key_appears_nowhere(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLMMAGIC_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    with ConversationStore(tmp_path / "chats.db") as store:
        session = Session(store=store)
        seen += map(repr, session.load("", base_url=told.address))
        assert told.listings[0]["Authorization"] == f"Bearer {KEY}"  # only the server got it
        told.will(says(delta(content="Hello"), end()))
        talk = session.new_conversation()
        seen += map(repr, session.chat("Hi", conversation=talk.id))
        assert told.requests[0][1]["Authorization"] == f"Bearer {KEY}"
        # Servers repeat keys in their errors, some with more around it.
        for status in (401, 403, 400, 404, 500):
            told.will(refuses(status, {"error": {"message": f"Bad key {KEY}: 'Bearer {KEY}'"}}))
            with pytest.raises(LLMMagicError) as caught:
                session.chat("Again", conversation=talk.id).wait()
            seen += [str(caught.value), repr(caught.value), repr(vars(caught.value)), repr(caught.value.__cause__)]
        told.will(says(f"data: {{{KEY}".encode() + b"\n\n"))
        with pytest.raises(EngineError) as broken:
            session.chat("Again", conversation=talk.id).wait()
        seen.append(str(broken.value))
        opened = session._require("Looking")
        client = vars(opened.engine)["_client"]
        seen += [repr(session.status()), repr(session._config), repr(opened), repr(vars(opened.engine))]
        seen += [repr(client), repr(client.speech), repr(vars(client.speech)), repr(client._short.headers)]
        seen += [export(store.load(talk.id), form) for form in ("md", "json", "jsonl")]  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not written down"):
            pickle.dumps(vars(client.speech)["_key"])
        session.close()
    seen += [record.getMessage() for record in caplog.records]
    assert len(seen) > 20
    assert all(KEY not in text for text in seen), [text for text in seen if KEY in text]
    for file in tmp_path.rglob("*"):
        assert KEY.encode() not in file.read_bytes()


def test_nothing_of_it_is_imported_before_it_is_needed() -> None:
    import subprocess

    code = (
        "import sys, llmmagic_tui.cli, llmmagic.core.session, llmmagic.core.config;"
        "print(sorted({'httpx', 'httpx_sse', 'keyring', 'asyncio'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout.replace("'", '"')) == []


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("1.5") == 1.5
    assert retry_after("-3") == 0
    later = retry_after("Wed, 21 Oct 2065 07:28:00 GMT")
    assert later is not None
    assert later > 10**9
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [retry_after(text) for text in (None, "soon", "nan", "inf")] == [None] * 4
