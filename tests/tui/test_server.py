"""``llmchat --base-url``: the model runs on a server, and nothing of a model is loaded here."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmmagic.core.errors import ConfigError
from llmmagic_tui.cli import main
from llmmagic_tui.settings import Settings, last_model, read_settings
from tests.core.engines.openai.servers import Told, breaks_after, delta, end, refuses, says, scripted_server
from tests.tui.app.helpers import chat_app
from tests.tui.conftest import RunLlmchat, imported_modules

USAGE = {"prompt_tokens": 30, "completion_tokens": 3}


@pytest.fixture
def told() -> Iterator[Told]:
    with scripted_server() as server:
        server.will(says(delta(content="Hello "), delta(content="there"), end(usage=USAGE)))
        yield server


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "CONFIG"):
        monkeypatch.setenv(f"LLMMAGIC_{name}_DIR", str(tmp_path / name.lower()))
    for name in ("LLMMAGIC_API_KEY", "OPENAI_API_KEY", "LLMCHAT_BASE_URL", "LLMCHAT_ENGINE"):
        monkeypatch.delenv(name, raising=False)


def test_a_filter_needs_only_the_address(told: Told, llmchat: RunLlmchat) -> None:
    # The environment of these processes names another engine: the command line is stronger.
    done = llmchat("--base-url", told.address, "--context", "1000", "--max-new-tokens", "9", piped="Hi\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello there\n", "")
    assert told.requests[0][2]["max_tokens"] == 9


def test_a_filter_with_the_address_in_the_environment(
    told: Told, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setenv("LLMCHAT_BASE_URL", told.address)
    monkeypatch.setenv("LLMCHAT_CONTEXT", "1000")
    assert main(["org/parrot", "-p", "Hi"]) == 0
    assert capfd.readouterr() == ("Hello there\n", "")
    assert main(["org/parot", "-p", "Hi"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.endswith("it has: org/parrot. Did you mean 'org/parrot'?\n")
    assert err.count("\n") == 1
    with pytest.raises(SystemExit) as left:
        main(["--base-url", told.address, "--engine", "transformers", "-p", "Hi"])
    assert left.value.code == 2
    assert "--base-url is for the engine openai" in capfd.readouterr().err


def test_a_filter_imports_nothing_of_a_model(told: Told, environment: dict[str, str]) -> None:
    code = (
        "import io\nfrom llmmagic_tui.cli import main\n"
        "sys.stdin = io.TextIOWrapper(io.BytesIO(b''))\n"
        f"assert main(['--base-url', {told.address!r}, '--context', '1000', '-p', 'Hi']) == 0\n"
    )
    modules = imported_modules(environment, code)
    assert "httpx" in modules
    assert not modules & {"torch", "transformers", "peft", "trl", "textual", "openai"}


def test_settings_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "config.toml"
    file.write_text('base_url = "http://127.0.0.1:8000"\nquantization = "nf4"\n')
    config = read_settings({}).load_config()
    assert (config.engine, config.model_id, config.base_url) == ("openai", "", "http://127.0.0.1:8000")
    # An engine of this machine that a stronger word names is for a model of this machine.
    local = read_settings({"LLMCHAT_ENGINE": "llama.cpp"}).load_config(default="demo")
    assert (local.engine, local.model_id, local.base_url) == ("llama.cpp", "demo", None)
    file.write_text('engine = "transformers"\n')
    assert read_settings({"LLMCHAT_BASE_URL": "http://127.0.0.1:1"}).load_config().engine == "openai"
    file.write_text('base_url = "127.0.0.1:8000"\n')
    with pytest.raises(ConfigError, match=r"config\.toml: base_url must begin with http://"):
        read_settings({})
    with pytest.raises(ConfigError, match="needs the address of a server"):
        Settings(engine="openai")


@pytest.mark.parametrize("worker", [False, True])
async def test_the_app_shows_the_server_and_says_about(told: Told, worker: bool) -> None:
    async with chat_app(
        worker=worker, load=False, model=None, engine="auto", base_url=told.address, context=1000
    ) as chat:
        await chat.ready()
        await chat.send("Hi")
        host = told.address.removeprefix("http://").removesuffix("/v1")
        status = chat.screen.status.render().plain
        assert f"org/parrot · server {host}" in status
        assert not any(word in status for word in ("unquantised", "cpu", "MB"))
        report = chat.screen.active.report
        assert report is not None
        assert not report.exact
        bar = chat.screen.active.bar
        assert bar.render_line(1).text.strip().startswith(f"about {report.prompt_tokens:,} of 1,000 tokens")
        await chat.press("f2")
        table = chat.app.screen.query_one("WindowTable")
        assert any(cell.startswith("~") for cell in table.cells(1))  # type: ignore[attr-defined]
        await chat.press("escape")
        assert chat.screen.backend.alive
        assert getattr(chat.screen.backend.session._opened.engine, "pid", None) is None  # type: ignore[union-attr]
        assert last_model() is None  # its name means nothing on this machine


async def test_a_reply_that_breaks_off_is_kept_and_the_conversation_goes_on(told: Told) -> None:
    async with chat_app(load=False, model=None, engine="auto", base_url=told.address, context=1000) as chat:
        await chat.ready()
        told.will(breaks_after(delta(content="The half of it")))
        await chat.send("Hi")
        assert any("broke off the reply" in notice for notice in chat.notices)
        assert chat.messages == [("user", "Hi"), ("assistant", "The half of it")]
        assert "stopped before its end" in chat.text()
        told.will(refuses(503), says(delta(content="All of it"), end()))
        await chat.press("ctrl+r")
        await chat.until(lambda: chat.messages[-1][1] == "All of it" and chat.screen.running is None)
        await chat.settled()


async def test_no_server_is_said_and_another_can_be_named(told: Told) -> None:
    async with chat_app(load=False, model=None, engine="auto", base_url="http://127.0.0.1:9", context=1000) as chat:
        await chat.until(lambda: any("No server answers" in notice for notice in chat.notices))
        await chat.press("f9")
        server = chat.app.screen.query_one("#server")
        server.value = told.address  # type: ignore[attr-defined]
        server.focus()
        await chat.press("enter")
        await chat.ready()
        await chat.send("Hi")
        assert chat.messages[-1] == ("assistant", "Hello there")
