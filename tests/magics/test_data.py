"""``%llm_data``: what people get to see of their data before it is trained on."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from rich.console import Console

from llmmagic.core.events import DataInspected, DataReport, Finding, PrepareProgress, RowView, TokenPiece
from llmmagic.magics.html import card_html
from llmmagic.magics.results import DataSummary
from llmmagic.magics.screens.terminal import render_card
from llmmagic.magics.text import card_text
from llmmagic.magics.views.data import DataView, percent, token_row

ROWS = [
    {"question": "Where is <b>Zürich</b>?", "answer": "In the north.\nYes."},
    {"question": "And Basel?", "answer": "x" * 300},
]
INSPECTED = DataInspected(
    report=DataReport(
        "rows.jsonl",
        5,
        "question/answer",
        {"question": "prompt", "answer": "completion"},
        total_tokens=200,
        truncated_rows=1,
        trained_tokens=110,
    ),
    findings=(
        Finding("empty-answer", "error", "1 of 6 rows have no answer.", (3,)),
        Finding("duplicates", "warning", "1 of 6 rows occurred before.", (4,)),
    ),
    views=(
        RowView(
            1,
            (
                TokenPiece("<s>", "masked", special=True),
                TokenPiece("Why", "masked"),
                TokenPiece("?\n", "masked"),
                TokenPiece("Be", "trained"),
                TokenPiece("cause\x1b[2J", "trained"),
                TokenPiece("</s>", "trained", special=True),
                TokenPiece("tail", "cut"),
            ),
        ),
    ),
    rows=6,
    max_length=64,
    examples=5,
    masked_tokens=90,
    cut_tokens=50,
    end_labelled=4,
    most_bos=1,
    duplicate_rows=1,
    empty_rows=1,
    longest_rows=((5, 114), (2, 40)),
    checked_prompts=5,
    identical_prompts=5,
)


def view() -> DataView:
    made = DataView("rows.jsonl")
    made.on(PrepareProgress(done=3, total=6, detail="tokenize"))
    return made


def test_the_card_says_what_is_trained_masked_cut_and_wrong() -> None:
    data = view()
    assert data.card().bars[0].text == "3 of 6 rows · tokenize"
    data.on(INSPECTED)
    card = data.card()
    assert card.status == "failed"  # training would be refused
    assert dict(card.facts) == {
        "Rows": "6 read, 5 to train on, from rows.jsonl",
        "Columns": "question/answer: question → prompt, answer → completion",
        "Tokens": "200 in 5 examples",
        "Trained on": "110 tokens (55 %)",
        "Masked": "90 tokens (45 %): only read",
        "Cut off": "50 tokens (20 %) of 1 row, at max_length 64",
        "Longest": "114 tokens (row 5), 40 tokens (row 2)",
        "End token": "learnt in 4 of 5 examples",
        "BOS": "once at the beginning of each",
        "Prompts": "5 of 5 are token for token what the chat sends",
        "Empty rows": "1",
        "Duplicates": "1",
    }
    assert [note.text for note in card.notes] == [
        "1 of 6 rows have no answer. First rows: 3. Training is refused; --allow empty-answer goes on all the same.",
        "1 of 6 rows occurred before. First rows: 4.",
    ]


def test_tokens_are_marked_by_more_than_colour_everywhere() -> None:
    data = view()
    data.on(INSPECTED)
    plain = card_text(data.card())
    assert "`<s>`Why?\n    [+Because`</s>`+][-tail-]" in plain
    assert "[+trained on+]  masked: only read  [-cut off by max_length-]  `special token`" in plain

    html = card_html(data.card())
    assert "border-bottom:2px solid #22a06b" in html  # trained on: a line under it
    assert "text-decoration:line-through" in html  # cut off: a line through it
    assert ">&lt;s&gt;</span>" in html
    assert "Why?⏎\n" in html
    assert "<s>" not in html
    assert "\x1b" not in html

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, width=100, legacy_windows=False)
    console.print(render_card(data.card()))
    assert "\x1b[1mBecause" in out.getvalue()  # bold
    assert "\x1b[9mtail" in out.getvalue()  # struck through
    assert "\x1b[2;7m<s>" in out.getvalue()  # dim and reversed
    assert "\x1b[2J" not in out.getvalue()


def test_the_middle_of_a_long_row_is_left_out() -> None:
    row = token_row(RowView(7, tuple(TokenPiece(str(place % 10), "masked") for place in range(1000))))
    assert row.title == "Row 7 · 1,000 tokens"
    assert [(len(run.text), run.kind) for run in row.runs] == [(360, "masked"), (16, "gap"), (120, "masked")]
    assert row.runs[1].text == " … 520 tokens … "


@pytest.mark.parametrize(
    ("part", "whole", "text"), [(0, 0, "0 %"), (1, 3, "33 %"), (1, 5000, "0.1 %"), (1, 30, "3.3 %"), (7, 7, "100 %")]
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


def test_a_look_at_a_variable(chatting: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    chatting.user_ns["mine"] = ROWS
    assert chatting.run_cell("%%llm_data mine -o report\nmax_length: 100").success
    out = capsys.readouterr().out
    assert "Data: mine" in out
    assert "Where is <b>Zürich</b>?`<|im_end|>`" in out
    assert "[+In the north.\n    Yes.`<|im_end|>`+]" in out
    assert "1 of 2 rows are cut off at max_length" in out
    report = chatting.user_ns["report"]
    assert isinstance(report, DataSummary)
    assert report.inspected.max_length == 100
    assert [row.row for row in report.inspected.views] == [1, 2]
    html = report._repr_mimebundle_()["text/html"]
    assert "&lt;b&gt;Zürich&lt;/b&gt;" in html
    assert "<b>" not in html


def test_a_dry_run_shows_the_same_report(chatting: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    chatting.user_ns["mine"] = ROWS
    assert chatting.run_cell("%llm_data mine -o report").success
    capsys.readouterr()
    assert chatting.run_cell("%%llm_train med --data mine --dry-run").success
    shown = capsys.readouterr().out
    report = chatting.user_ns["report"]
    for name, value in report.card.facts:
        assert f"  {name}  " in shown
        assert value in shown
    assert "Row 1 · " in shown


def test_a_dry_run_on_rows_that_are_refused_shows_why(
    chatting: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    chatting.user_ns["mine"] = [*ROWS, {"question": "Why?", "answer": ""}]
    assert not chatting.run_cell("%%llm_train med --data mine --dry-run").success
    shown = capsys.readouterr().out
    assert "1 of 3 rows have no question, no answer or no text. First rows: 3. Training is refused" in shown
    assert "Row 3 has no answer" in shown


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%llm_data mine --rows -1", "--rows must be 0 or more, got -1."),
        ("%llm_data", "%llm_data: the following arguments are required: SRC"),
        ("%llm_data mine --map question=prompts", "Did you mean 'prompt'?"),
        ("%llm_data nosuch.jsonl", "There is no file 'nosuch.jsonl'."),
        ("%%llm_data mine\nmax_lenght: 3", "Did you mean 'max_length'?"),
    ],
)
def test_bad_input_is_one_line(
    chatting: InteractiveShell, capsys: pytest.CaptureFixture[str], tmp_path: Path, cell: str, message: str
) -> None:
    chatting.user_ns["mine"] = ROWS
    assert not chatting.run_cell(cell).success
    assert message in capsys.readouterr().out


def test_without_a_model_it_says_what_to_do(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.magics.conftest import make_shell

    other = make_shell()
    try:
        other.user_ns["mine"] = ROWS
        assert not other.run_cell("%llm_data mine").success
        assert "needs a model, and none is loaded. Load one first: %llm_load demo" in capsys.readouterr().out
    finally:
        other.run_line_magic("unload_ext", "llmmagic")


def test_a_training_cell_answers_samples(
    chatting: InteractiveShell, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    chatting.user_ns["mine"] = ROWS
    assert chatting.run_cell("%llm_chat --conversation talk --max-new-tokens 2 --seed 1 Who are you?").success
    capsys.readouterr()
    cell = (
        '%%llm_train sampled --data mine --sample "What now?" --sample-conversation talk --sample-steps 2\n'
        f'samples: ["And then?"]\nsample_tokens: 4\nmax_steps: 3\noutput_dir: {tmp_path}'
    )
    assert chatting.run_cell(cell).success
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    for prompt in ("And then?", "What now?", "Who are you?"):
        place = lines.index(prompt)
        assert [line.split("  ")[0] for line in lines[place + 1 : place + 4]] == ["before", "step 2", "after"]
    assert not chatting.run_cell("%%llm_train x --data mine --sample-conversation nosuch").success
    assert "No conversation 'nosuch'" in capsys.readouterr().out
