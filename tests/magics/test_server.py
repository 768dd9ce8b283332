"""``%llm_load --base-url``: a model that runs on a server, in a notebook."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.core.engines.openai.servers import Told, delta, end, refuses, says, scripted_server


@pytest.fixture(scope="module")
def told() -> Iterator[Told]:
    with scripted_server() as server:
        yield server


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMMAGIC_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def run(shell: InteractiveShell, cell: str, capsys: pytest.CaptureFixture[str]) -> str:
    shell.run_cell(cell)
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_it_is_loaded_shown_and_talked_to(
    shell: InteractiveShell, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    host = told.address.removeprefix("http://").removesuffix("/v1")
    card = run(shell, f"%llm_load --base-url {told.address} --max-context 1000", capsys)
    assert "org/parrot" in card
    assert f"Server          {told.address} (an OpenAI-compatible server, without a key)" in card
    assert "Token counts    about (the tokenizer is not on this machine" in card
    assert "Memory" not in card
    usage = {"prompt_tokens": 30, "completion_tokens": 3}
    told.will(refuses(503), says(delta(content="Hello **there**"), end(usage=usage)))
    shown = run(shell, "%llm_chat Hi", capsys)
    assert "Hello **there**" in shown
    assert "Trying again in 0." in shown
    assert f"The server {host} failed (HTTP 503): no." in shown
    assert "context about 3" in shown
    assert "/ 1,000 tokens" in shown
    status = run(shell, "%llm_status", capsys)
    assert "2 messages, about 3" in status


def test_it_cannot_be_trained_and_that_is_said_in_one_line(
    shell: InteractiveShell, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, f"%llm_load org/parrot --base-url {told.address} --max-context 1000", capsys)
    rows = '[{"question": "a", "answer": "b"}]'
    message = run(
        shell, f"rows = {rows}\nget_ipython().run_cell_magic('llm_train', '--data rows', 'max_steps: 1')", capsys
    )
    assert "Training needs the model on this machine, and org/parrot runs on the server 127.0.0.1" in message
    assert "Load it here: %llm_load org/parrot" in message
    assert "Traceback" not in message


def test_what_is_wrong_is_one_line(shell: InteractiveShell, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No model was named" in run(shell, "%llm_load", capsys)
    message = run(shell, "%llm_load m --base-url http://127.0.0.1:9", capsys)
    assert "No server answers at http://127.0.0.1:9/v1" in message
    assert "Traceback" not in message
    wrong = run(shell, f"%llm_load m --base-url {told.address} --adapter x", capsys)
    assert "adapter cannot be set for a model that runs on a server" in wrong
