"""The panel in a real kernel: what the notebook gets, and what is left for readers without a kernel."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from tests.magics.conftest import WIDGET, Notebook


def listen(notebook: Notebook, until: Callable[[str, dict[str, Any]], bool]) -> None:
    """Read what the kernel says while no cell runs."""
    end = time.monotonic() + 60
    while True:
        assert time.monotonic() < end
        try:
            message = notebook.client.get_iopub_msg(timeout=5)
        except queue.Empty:
            continue
        if until(message["msg_type"], message["content"]):
            return


def tell(notebook: Notebook, comm_id: str, **command: Any) -> None:
    """What the browser does when something is clicked."""
    notebook.say(comm_id, {"v": 1, **command})


def test_the_panel_answers_while_no_cell_runs(notebook: Notebook) -> None:
    states: list[dict[str, Any]] = []

    def watch(message: dict[str, Any]) -> None:
        if message["msg_type"] == "comm_open":
            states.append({"id": message["content"]["comm_id"], **message["content"]["data"]["state"]})

    cell = notebook.run("%llm_chat --system Short. --max-new-tokens 20 --seed 1", on_message=watch)
    assert cell.reply["status"] == "ok", cell.reply
    panel, copy = (output["data"] for output in cell.outputs)
    assert panel["text/plain"] == "Chat panel: run this cell to talk."
    state = next(state for state in states if state["id"] == panel[WIDGET]["model_id"])
    kinds = {message["type"]: message for message in state["first"]}
    assert kinds["path"]["talk"]["system"] == "Short."
    assert kinds["status"]["model"] == "tiny-random"
    assert "export default" in state["_esm"]
    assert "nothing has been said yet" in copy["text/plain"]
    assert state["copy"] in copy["text/html"]

    said: list[dict[str, Any]] = []
    tell(notebook, state["id"], type="send", ref=5, text="What is bursitis?")

    def done(kind: str, content: dict[str, Any]) -> bool:
        if kind == "comm_msg" and content["data"].get("method") == "custom":
            said.append(content["data"]["content"])
        return kind == "update_display_data" and "What is bursitis?" in content["data"]["text/plain"]

    listen(notebook, done)
    assert {"v": 1, "type": "answer", "ref": 5, "error": ""} in said
    assert any(message["type"] == "stream" for message in said)
    views = [view for message in said if message["type"] == "path" for view in message["changed"]]
    assert views[0]["text"] == "What is bursitis?"
    shown = notebook.run("%llm_status").plain
    assert "2 messages" in shown


def test_with_nobody_watching_the_conversation_is_shown_as_it_is(notebook: Notebook) -> None:
    notebook.run("%llm_chat --conversation unattended --max-new-tokens 8 --seed 1 Hello")
    cell = notebook.run("%llm_chat --conversation unattended", attended=False)
    assert cell.reply["status"] == "ok"
    assert not cell.opened
    (output,) = cell.outputs
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert "You: Hello" in cell.plain


def test_options_that_need_a_prompt_are_refused(notebook: Notebook) -> None:
    cell = notebook.run("%llm_chat --raw")
    assert "--raw needs a prompt. Without one, %llm_chat opens the chat panel." in cell.errors[0]["traceback"][0]
    assert "--engine needs a prompt." in notebook.run("%llm_chat --engine llama.cpp").errors[0]["traceback"][0]
    assert "temperature must be >= 0" in notebook.run("%llm_chat --temperature -1").errors[0]["traceback"][0]
