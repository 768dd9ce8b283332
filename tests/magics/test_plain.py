"""A script over `InteractiveShell`: no front end, lines of plain text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from llmmagic.core.errors import LLMMagicError
from llmmagic.magics.results import Reply, TrainSummary
from tests.magics.conftest import ROWS


def prompts(shell: InteractiveShell, conversation: str) -> list[str]:
    """What the user has said in a conversation."""
    magics = shell.magics_manager.registry["LLMMagics"]
    return [m.content for m in magics.session.conversation(conversation).path() if m.role == "user"]


@pytest.mark.parametrize(
    "prompt",
    [
        "What is bursitis?",
        'say {nothing} for $5, or "that\'s" it',
        r"a \backslash and C:\path",
        "two  spaces, a | pipe; a # hash & %magic",
        "- a list item",
        "-5 degrees",
        'unbalanced ( [ { \' """ quotes?',
        "--- a rule",
    ],
)
def test_the_rest_of_the_line_is_the_prompt(chatting: InteractiveShell, prompt: str) -> None:
    line = f"-- {prompt}" if prompt.startswith("---") else prompt
    result = chatting.run_cell(f"%llm_chat --new --conversation literal --max-new-tokens 2 {line}")
    assert result.success
    assert prompts(chatting, "literal") == [prompt]


def test_a_prompt_after_two_dashes_may_begin_with_an_option(chatting: InteractiveShell) -> None:
    chatting.run_line_magic("llm_chat", "--new --conversation dashes --max-new-tokens 2 -- --seed is what?")
    assert prompts(chatting, "dashes") == ["--seed is what?"]


def test_in_a_loop_a_question_mark_stays_a_prompt(chatting: InteractiveShell) -> None:
    cell = "for i in range(2):\n    %llm_chat --conversation loop --max-new-tokens 2 again?\n"
    assert chatting.run_cell(cell).success
    assert prompts(chatting, "loop") == ["again?", "again?"]


def test_help_is_still_help(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell.run_cell("%llm_chat?").success
    shown = capsys.readouterr().out
    assert "--conversation NAME" in shown
    assert "Say something to the model." in shown


def test_the_body_is_the_prompt_and_braces_stay(chatting: InteractiveShell) -> None:
    chatting.user_ns["name"] = "Ada"
    body = 'Dear {name}\n\n    def f(): return {"a": $x}\n'
    assert chatting.run_cell(f"%%llm_chat --new --conversation body --max-new-tokens 2\n{body}").success
    assert prompts(chatting, "body") == [body.strip("\n")]


def test_a_cell_that_is_run_unseen_says_its_prompt(
    chatting: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """``ipython FILE.ipynb`` runs its cells like this."""
    capsys.readouterr()
    assert chatting.run_cell("%%llm_chat --max-new-tokens 4\nWhat is\n{gout}?", silent=True).success
    assert capsys.readouterr().out.startswith("You: What is {gout}?\n")
    assert chatting.run_cell("%llm_chat --max-new-tokens 4 What is gout?").success
    assert "You:" not in capsys.readouterr().out


def test_fill_puts_variables_in(chatting: InteractiveShell) -> None:
    chatting.user_ns["name"] = "Ada {Lovelace}"
    cell = '%%llm_chat --fill --new --conversation filled --max-new-tokens 2\nDear {name}, {{name}} {"a": 1} {0} {}'
    assert chatting.run_cell(cell).success
    assert prompts(chatting, "filled") == ['Dear Ada {Lovelace}, {name} {"a": 1} {0} {}']


def test_conversations_are_kept_apart_and_go_on(chatting: InteractiveShell) -> None:
    for line in ("--conversation a one", "--conversation a two", "--conversation b three"):
        chatting.run_line_magic("llm_chat", f"--max-new-tokens 2 {line}")
    assert prompts(chatting, "a") == ["one", "two"]
    assert prompts(chatting, "b") == ["three"]
    chatting.run_line_magic("llm_chat", "--max-new-tokens 2 --new --conversation a four")
    assert prompts(chatting, "a") == ["four"]


def test_a_reply_is_printed_as_it_comes_with_figures_below(
    chatting: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    chatting.run_cell("%llm_chat --new --seed 7 --max-new-tokens 8 -o answer hi")
    answer = chatting.user_ns["answer"]
    assert isinstance(answer, Reply)
    assert answer == answer.text == str(answer)
    assert answer.finish_reason == "length"
    assert answer.stats.completion_tokens == 8
    out = capsys.readouterr().out
    figures = out.splitlines()[-1]
    assert re.fullmatch(
        r"\[.* tokens/s · first token after .* · context [\d,]+ / 2,048 tokens · cut off at 8 tokens .*\]", figures
    )
    again = chatting.run_cell("%llm_chat --new --seed 7 --max-new-tokens 8 --no-stream -o again hi")
    assert again.success
    assert chatting.user_ns["again"] == answer, "same seed, same reply"


def test_a_system_prompt_with_spaces(chatting: InteractiveShell) -> None:
    chatting.run_cell('%llm_chat --new --conversation s --max-new-tokens 2 --system "You are \\"terse\\"." hi')
    magics = chatting.magics_manager.registry["LLMMagics"]
    assert magics.session.conversation("s").system == 'You are "terse".'


def test_training_prints_lines_and_stores_a_summary(
    chatting: InteractiveShell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chatting.user_ns["rows"] = ROWS
    result = chatting.run_cell(
        f"%%llm_train med --data rows --eval-data rows -o summary\n"
        f"max_steps: 6\nlearning_rate: 1e-2\noutput_dir: {tmp_path.as_posix()}\nlora:\n  r: 4\n"
    )
    assert result.success
    summary = chatting.user_ns["summary"]
    assert isinstance(summary, TrainSummary)
    assert summary.finished is not None
    assert summary.finished.steps == 6
    assert summary.started.settings["lora_r"] == "4"
    assert summary.finished.eval_loss_after < summary.finished.eval_loss_before
    out = capsys.readouterr().out
    assert "Training med" in out
    assert "med: 6 steps in" in out
    assert f"Adapter        {tmp_path}" in out
    assert "med: 6 steps in" in repr(summary)
    status = chatting.magics_manager.registry["LLMMagics"].session.status()
    assert status.model.adapter == "med"


def test_the_body_may_be_missing(chatting: InteractiveShell, tmp_path: Path) -> None:
    chatting.user_ns["rows"] = ROWS
    assert chatting.run_cell("%%llm_train plan --data rows --dry-run -o plan").success
    plan = chatting.user_ns["plan"]
    assert plan.finished is None
    assert plan.adapter_dir is None
    assert "nothing was trained" in repr(plan)
    assert chatting.run_cell("%llm_train plan --data rows --dry-run").success


def test_save_and_load_again(chatting: InteractiveShell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my adapter"
    assert chatting.run_cell(f'%llm_save "{folder}"').success
    assert (folder / "adapter_config.json").exists()
    assert chatting.run_cell(f'%llm_load tiny-random --adapter "{folder}"').success
    assert "my" in capsys.readouterr().out
    assert chatting.run_cell("%llm_load tiny-random").success


def test_resuming_what_never_ran_is_refused(chatting: InteractiveShell) -> None:
    chatting.user_ns["rows"] = ROWS
    with pytest.raises(LLMMagicError, match="no checkpoint to resume from"):
        chatting.run_cell_magic("llm_train", "never --data rows --resume", "max_steps: 1")


def test_columns_of_any_name_are_mapped_and_findings_allowed(chatting: InteractiveShell) -> None:
    chatting.user_ns["cases"] = [{"complaint": f"My {row['question']}", "advice": row["answer"]} for row in ROWS] + [
        {"complaint": "And now?", "advice": ""}
    ]
    command = "llm_train mapped --data cases --dry-run --map complaint=prompt,advice=completion -o plan"
    with pytest.raises(LLMMagicError, match="--allow empty-answer"):
        chatting.run_line_magic(*command.split(" ", 1))
    chatting.run_line_magic(*f"{command} --allow empty-answer".split(" ", 1))
    report = chatting.user_ns["plan"].started.data
    assert report.columns == {"complaint": "prompt", "advice": "completion"}
    assert report.rows == len(ROWS)
    with pytest.raises(LLMMagicError, match="NAME=VALUE"):
        chatting.run_line_magic("llm_train", "mapped --data cases --map complaint")


@pytest.mark.parametrize(
    ("cell", "error", "says"),
    [
        ("%llm_load no-such-model", "ModelNotFoundError", "no-such-model"),
        ("%llm_load org/never-heard-of-it", "LLMMagicError", "org/never-heard-of-it"),
        ("%llm_load tiny-random --quantization nf5", "ConfigError", "'nf4'"),
        ("%llm_load tiny-random --dtype float", "ConfigError", "float32"),
        ("%llm_load tiny-random --device gpu", "ConfigError", "cuda:N"),
        ("%llm_load tiny-random --max-context many", "MagicUsageError", "many"),
        ("%llm_load", "ConfigError", "No model was named"),
        ("%llm_load a b", "MagicUsageError", "b"),
        ('%llm_load "a', "MagicUsageError", "quote"),
        ("%llm_chat", "MagicUsageError", "no prompt"),
        ("%llm_chat --temperature -1 hi", "ConfigError", "temperature must be >= 0"),
        ("%llm_chat --temperature nan hi", "ConfigError", "temperature"),
        ("%llm_chat --max-new-tokens 0 hi", "ConfigError", "max_new_tokens must be >= 1"),
        ("%llm_chat --seed x hi", "MagicUsageError", "'x'"),
        ("%llm_chat --sistem x hi", "MagicUsageError", "'--system'"),
        ("%llm_chat --fill hi {nobody_knows}", "ConfigError", "nobody_knows"),
        ("%llm_chat -o 2x hi", "MagicUsageError", "'2x'"),
        ("%llm_unload now", "MagicUsageError", "'now'"),
        ("%%llm_train med\nmax_steps: 1", "MagicUsageError", "--data"),
        ("%%llm_train med --data missing.jsonl\nmax_steps: 1", "DataNotFoundError", "missing.jsonl"),
        ("%%llm_train med --data rowz\nmax_steps: 1", "DataNotFoundError", "'rows'"),
        ("%%llm_train med --data number\nmax_steps: 1", "DataNotFoundError", "int"),
        ("%%llm_train med --data empty\nmax_steps: 1", "DataError", ""),
        ("%%llm_train med --data rows\nmax_stps: 1", "ConfigError", "max_steps"),
        ("%%llm_train med --data rows\nlora:\n  rr: 1", "ConfigError", "rr"),
        ("%%llm_train med --data rows\nmax_steps: 3: 4", "ConfigError", "line 1, column 13"),
        ("%%llm_train med --data rows\njust words", "ConfigError", "key: value"),
        ("%%llm_train med --data rows --recipe tutoral\nmax_steps: 1", "ConfigError", "'tutorial'"),
        ("%%llm_train my/name --data rows\nmax_steps: 1", "ConfigError", "my/name"),
        ("%llm_save", "AdapterError", "There is no adapter to save"),
        ("%llm_chat --engine llamacpp hi", "ConfigError", "engine must be one of"),
        ("%llm_save x --format onnx", "ConfigError", "format must be one of adapter, merged, gguf"),
        ("%llm_save x --gguf-type q4_0", "ConfigError", "gguf_type is for the format gguf"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    chatting: InteractiveShell, capsys: pytest.CaptureFixture[str], cell: str, error: str, says: str
) -> None:
    chatting.user_ns.update(rows=ROWS, number=3, empty=[])
    magics = chatting.magics_manager.registry["LLMMagics"]
    before = magics.session.info
    capsys.readouterr()
    result = chatting.run_cell(cell)
    assert not result.success
    raised: Any = result.error_in_exec
    assert isinstance(raised, LLMMagicError)
    assert error in {kind.__name__ for kind in type(raised).__mro__}
    shown = capsys.readouterr()
    line = shown.out.strip()
    assert "\n" not in line, "one line"
    assert line.startswith(type(raised).__name__)
    assert says in line
    assert magics.session.info == before
    assert magics.session.busy is None


def test_before_a_model_is_loaded(capsys: pytest.CaptureFixture[str], shell: InteractiveShell) -> None:
    shell.run_line_magic("llm_unload", "")
    shell.user_ns["rows"] = ROWS
    capsys.readouterr()
    for cell in ("%llm_chat hi", "%%llm_train med --data rows\nmax_steps: 1", "%llm_save folder"):
        assert not shell.run_cell(cell).success
        assert capsys.readouterr().out.startswith("ModelNotLoadedError: ")
    assert shell.run_cell("%llm_status").success
    assert "No model is loaded" in capsys.readouterr().out
    assert shell.run_cell("%llm_unload").success
