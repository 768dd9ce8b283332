"""A real kernel: what a notebook shows while a cell runs, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.magics.conftest import WIDGET, Notebook


def interrupt_at(notebook: Notebook, kind: str) -> Callable[[dict[str, Any]], None]:
    """Press the ■ button once, at the first message of a kind."""
    pressed: list[bool] = []

    def watch(message: dict[str, Any]) -> None:
        if message["msg_type"] == kind and not pressed:
            pressed.append(True)
            notebook.interrupt()

    return watch


def test_a_load_leaves_a_static_card(notebook: Notebook) -> None:
    cell = notebook.run("%llm_load tiny-random")
    assert cell.reply["status"] == "ok"
    (output,) = cell.outputs
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert "90,624 in 2 layers" in cell.plain
    assert "loaded already" in cell.plain
    assert "2,048 tokens" in cell.html


def test_training_shows_a_widget_and_leaves_a_static_summary(notebook: Notebook, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def watch(message: dict[str, Any]) -> None:
        if message["msg_type"] == "display_data":
            seen.append(message["content"]["data"])

    cell = notebook.run(
        f"%%llm_train med --data rows --eval-data rows -o summary\nmax_steps: 60\noutput_dir: {tmp_path.as_posix()}",
        on_message=watch,
    )
    assert cell.reply["status"] == "ok", cell.reply
    assert WIDGET in seen[0], "live: a widget"
    assert "text/html" in seen[0], "and HTML for who has no widgets"
    live = [data["state"]["value"] for data in cell.live if "value" in data.get("state", {})]
    assert any("of 60" in html and 'role="progressbar"' in html for html in live)
    (output,) = cell.outputs
    assert set(output["data"]) == {"text/html", "text/plain"}, "static in the end"
    assert cell.opened == cell.closed, "no widget is left"
    assert "med: 60 steps in" in cell.plain
    assert "Held-out loss" in cell.plain
    assert "data:image/png;base64," in cell.html
    assert any("<polyline" in html for html in live)
    assert "progressbar" not in cell.html
    shown = notebook.run("summary")
    assert "data:image/png;base64," in shown.html
    assert "med: 60 steps in" in shown.plain
    facts = notebook.run(
        "print(summary.finished.steps, len(summary.losses) > 1, len(summary.evals), summary.adapter_dir)"
    )
    assert facts.stream.split()[:3] == ["60", "True", "2"]


def test_a_browser_that_was_closed_meanwhile_finds_how_it_ended(notebook: Notebook, tmp_path: Path) -> None:
    """Nobody says that the widget was replaced: it stays, with the summary, for who opens the notebook again."""
    cell = notebook.run(
        f"%%llm_train away --data rows\nmax_steps: 20\noutput_dir: {tmp_path.as_posix()}", present=False
    )
    assert cell.reply["status"] == "ok"
    assert cell.opened
    assert not cell.closed
    (ended,) = [
        data["state"]["value"] for data in cell.live if data.get("state", {}).get("value", "").count("20 steps in")
    ]
    assert "away: 20 steps in" in ended
    assert [data["state"]["final"] for data in cell.live if "final" in data.get("state", {})] == [True]


def test_without_anyone_watching_there_is_no_widget(notebook: Notebook, tmp_path: Path) -> None:
    cell = notebook.run(
        f"%%llm_train med --data rows\nmax_steps: 60\noutput_dir: {tmp_path.as_posix()}", attended=False
    )
    assert cell.reply["status"] == "ok"
    assert not cell.opened
    assert "med: 60 steps in" in cell.plain


def test_an_interrupt_stops_training_and_keeps_the_adapter(notebook: Notebook, tmp_path: Path) -> None:
    cell = notebook.run(
        f"%%llm_train cut --data rows\nmax_steps: 100000\noutput_dir: {tmp_path.as_posix()}",
        on_message=interrupt_at(notebook, "display_data"),
    )
    assert cell.reply["status"] == "ok", "stopping is no error"
    assert "stopped at step" in cell.plain
    assert "of 100,000, adapter kept" in cell.plain
    assert cell.opened == cell.closed
    assert (tmp_path / "adapter_config.json").exists()
    assert "cut" in notebook.run("%llm_status").plain


def test_a_reply_streams_and_ends_static(notebook: Notebook) -> None:
    cell = notebook.run("%llm_chat --seed 3 --temperature 1 --max-new-tokens 400 -o reply What is bursitis?")
    assert cell.reply["status"] == "ok"
    (output,) = cell.outputs
    assert set(output["data"]) == {"text/html", "text/plain"}
    assert cell.updates >= 2, "it grew"
    assert "tokens/s" in cell.plain
    assert "first token after" in cell.plain
    assert "/ 2,048 tokens" in cell.plain
    stored = notebook.run("print(isinstance(reply, str), reply.stats.completion_tokens, reply.finish_reason)").stream
    assert stored.split()[0] == "True"


def test_an_interrupt_stops_a_reply_and_keeps_what_came(notebook: Notebook) -> None:
    cell = notebook.run(
        "%llm_chat --new --seed 5 --temperature 1 --max-new-tokens 1900 -o reply go on",
        on_message=interrupt_at(notebook, "update_display_data"),
    )
    assert cell.reply["status"] == "ok"
    reason = notebook.run("print(reply.finish_reason)").stream.strip()
    if reason == "cancelled":  # it may have ended by itself first
        assert "stopped" in cell.plain
    else:
        assert reason in ("stop", "length")


def test_raw_is_text_as_it_comes(notebook: Notebook) -> None:
    cell = notebook.run("%llm_chat --raw --new --seed 1 --max-new-tokens 20 hi")
    assert "tokens/s" in cell.stream
    assert not cell.html


def test_an_error_is_one_line_and_its_type_can_be_caught(notebook: Notebook) -> None:
    cell = notebook.run("%llm_load no-such-model")
    (error,) = cell.errors
    assert cell.reply["status"] == "error"
    assert error["ename"] == "ModelNotFoundError"
    (line,) = error["traceback"]
    assert "\n" not in line
    assert "no-such-model" in line
    caught = notebook.run(
        "from llmmagic import LLMMagicError\n"
        "try:\n    get_ipython().run_line_magic('llm_load', 'no-such-model')\n"
        "except LLMMagicError as err:\n    print('caught', type(err).__name__)"
    )
    assert caught.stream == "caught ModelNotFoundError\n"


def test_control_sequences_in_an_error_are_gone(notebook: Notebook) -> None:
    cell = notebook.run("get_ipython().run_line_magic('llm_load', 'evil\\x1b]0;title\\x07\\u202emodel')")
    (error,) = cell.errors
    assert "\x1b]" not in error["traceback"][0]
    assert "\u202e" not in error["traceback"][0] + error["evalue"]


def test_a_wrong_option_fails_the_cell_with_one_line(notebook: Notebook) -> None:
    cell = notebook.run("%llm_load demo --quantisation nf4")
    assert cell.reply["status"] == "error"
    assert "Did you mean '--quantization'?" in cell.errors[0]["traceback"][0]
    assert len(cell.errors[0]["traceback"]) == 1
