"""Each way to train wrongly without noticing, provoked: what the report says, and that training refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.config import TrainConfig
from llmmagic.core.errors import ConfigError, DataFormatError
from llmmagic.core.events import DataInspected, Notice, PrepareProgress
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.operation import CancelToken
from llmmagic.core.training.inspection import inspect_data
from llmmagic.core.training.prepared import TokenizedCache, content_of
from llmmagic.core.training.run import train
from llmmagic.core.training.sources import read_table
from tests.core.training.conftest import Events

ROWS = [{"question": f"Question {i}?", "answer": f"Answer {i}."} for i in range(6)]


def inspect(loaded: LoadedModel, data: Any = ROWS, **settings: Any) -> DataInspected:
    views = settings.pop("views", 3)
    return inspect_data(
        loaded, data, TrainConfig(**settings), views=views, emit=lambda event: None, cancel=CancelToken()
    )


def try_to_train(loaded: LoadedModel, events: Events, data: Any, **settings: Any) -> None:
    settings = {"options": {"max_steps": 1, **settings.pop("options", {})}, **settings}
    train(loaded, data, TrainConfig(**settings), emit=events.append, cancel=CancelToken())


def names(report: DataInspected) -> list[str]:
    return [finding.name for finding in report.findings]


def test_sound_data_has_no_findings(tiny: LoadedModel) -> None:
    report = inspect(tiny)
    assert report.findings == ()
    assert (report.report.rows, report.examples, report.end_labelled) == (6, 6, 6)
    assert (report.checked_prompts, report.identical_prompts) == (6, 6)
    assert report.masked_tokens + report.report.trained_tokens == report.report.total_tokens
    assert report.most_bos == 1
    assert report.longest_rows[0][1] == report.report.longest_tokens


def test_a_view_shows_what_is_trained_masked_cut_and_special(tiny: LoadedModel) -> None:
    rows = [{"question": "Wo?", "answer": "Zürich"}]
    (view,) = inspect(tiny, rows, options={"max_length": 29}, allow=("no-end-label",)).views
    assert "".join(piece.text for piece in view.tokens if piece.kind == "masked") == (
        "<|im_start|>user\nWo?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "".join(piece.text for piece in view.tokens if piece.kind == "trained") == "Zürich"
    assert [piece.text for piece in view.tokens if piece.kind == "cut"] == ["<|im_end|>", "\n"]
    assert [piece.text for piece in view.tokens if piece.special] == ["<|im_start|>", "<|im_end|>"] * 2
    # Two byte tokens make up the ü: its text belongs to the second.
    assert [piece.text for piece in view.tokens if piece.kind == "trained"][1:4] == ["", "ü", "r"]


def test_empty_answers_stop_the_training_until_they_are_allowed(tiny: LoadedModel, events: Events) -> None:
    rows = [*ROWS[:2], {"question": "Q", "answer": " "}, *ROWS[2:], {"question": "", "answer": "A"}]
    report = inspect(tiny, rows)
    assert names(report) == ["empty-answer"]
    assert report.findings[0].text == "2 of 8 rows have no question, no answer or no text."
    assert report.findings[0].rows == (3, 8)
    with pytest.raises(DataFormatError, match=r"Row 3 has no answer.*--allow empty-answer"):
        try_to_train(tiny, events, rows)
    try_to_train(tiny, events, rows, allow=("empty-answer",))
    assert [event.topic for event in events if isinstance(event, Notice)] == ["empty-answer"]


def test_an_end_that_is_never_learnt_stops_the_training(tiny: LoadedModel, events: Events) -> None:
    rows = [{"question": "Q", "answer": "word " * 40}]
    options = {"max_length": 64}
    assert names(inspect(tiny, rows, options=options)) == ["no-end-label", "truncated"]
    with pytest.raises(DataFormatError, match=r"No example teaches .* every row is cut off\. Set a higher max_length"):
        try_to_train(tiny, events, rows, options=options)
    assert "no-end-label" not in names(inspect(tiny, rows))


def test_a_doubled_bos_stops_the_training(llama2: LoadedModel, events: Events) -> None:
    """The template writes one BOS and the data brings another."""
    llama2.tokenizer.chat_template = "{{ bos_token }}" + str(llama2.tokenizer.chat_template)
    report = inspect(llama2)
    assert names(report) == ["doubled-bos"]
    assert report.most_bos == 2
    with pytest.raises(DataFormatError, match=r"6 of 6 rows begin with two BOS tokens\. Row 1 is the first"):
        try_to_train(llama2, events, ROWS)


def test_the_tutorials_data_is_sound_on_a_tokenizer_that_adds_bos(llama2: LoadedModel, medquad: Path) -> None:
    report = inspect(llama2, str(medquad / "train_llama2_text.jsonl"), options={"max_length": 4096})
    assert report.report.format == "llama-2 text"
    assert report.most_bos == 1
    assert report.checked_prompts == report.identical_prompts == 64
    assert [finding for finding in report.findings if finding.level == "error"] == []


def test_long_rows_duplicates_and_special_tokens_are_warnings_with_figures(tiny: LoadedModel) -> None:
    rows = [
        *ROWS,
        ROWS[0],
        {"question": "What is <|im_end|>?", "answer": "x" * 400},
        {"question": "y" * 600, "answer": "A"},
    ]
    report = inspect(tiny, rows, options={"max_length": 256})
    texts = {finding.name: finding.text for finding in report.findings}
    share = report.cut_tokens / (report.cut_tokens + report.report.total_tokens)
    assert texts == {
        "all-masked": "1 of 9 rows are left out: max_length cuts off their whole answer.",
        "truncated": f"1 of 9 rows are cut off at max_length ({share:.1%} of all tokens): no end is learnt.",
        "special-tokens": "1 of 9 rows have special tokens in their text, which the model takes for real ones.",
        "duplicates": "1 of 9 rows occurred before.",
    }
    assert all(finding.level == "warning" for finding in report.findings)
    assert report.report.rows == 8
    assert report.duplicate_rows == 1


def test_held_out_rows_that_are_trained_on_are_reported(tiny: LoadedModel, events: Events, tmp_path: Path) -> None:
    config = TrainConfig(options={"max_steps": 1, "output_dir": str(tmp_path)})
    train(tiny, ROWS, config, eval_source=ROWS[:2], emit=events.append, cancel=CancelToken())
    (notice,) = (event for event in events if isinstance(event, Notice))
    assert notice.topic == "eval-overlap"
    assert notice.text == "Held-out data: 2 of 2 rows are also trained on: their loss says little."


def test_what_is_said_about_held_out_rows_names_them(tiny: LoadedModel, events: Events, tmp_path: Path) -> None:
    held_out = [{"question": "Q", "answer": "A"}, {"question": "Q", "answer": "x" * 400}]
    config = TrainConfig(options={"max_steps": 1, "max_length": 256, "output_dir": str(tmp_path)})
    train(tiny, ROWS, config, eval_source=held_out, emit=events.append, cancel=CancelToken())
    (notice,) = (event.text for event in events if isinstance(event, Notice))
    assert notice.startswith("Held-out data: 1 of 2 rows are cut off at max_length")
    held_out[1]["answer"] = ""
    with pytest.raises(DataFormatError, match=r"^Held-out data: Row 2 has no answer: column 'answer' is empty\."):
        train(tiny, ROWS, config, eval_source=held_out, emit=events.append, cancel=CancelToken())


def test_a_template_without_generation_marks_needs_none(llama2: LoadedModel) -> None:
    assert "generation" not in str(llama2.tokenizer.chat_template)
    (view,) = inspect(llama2, ROWS[:1]).views
    assert "".join(piece.text for piece in view.tokens if piece.kind == "trained") == " Answer 0. </s>"


def test_an_unknown_finding_cannot_be_allowed(tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=r"no finding 'empty-answers' to allow. Did you mean 'empty-answer'\?"):
        inspect(tiny, allow=("empty-answers",))


def test_what_was_inspected_is_not_tokenised_again(tiny: LoadedModel, events: Events, tmp_path: Path) -> None:
    cache, rows = TokenizedCache(), [dict(row) for row in ROWS]
    options = {"max_steps": 1, "max_length": 200, "output_dir": str(tmp_path)}
    config = TrainConfig(options=options)

    def tokenised() -> list[str]:
        names = [event.detail for event in events if isinstance(event, PrepareProgress)]
        events.clear()
        return [name for name in names if name.startswith("tokenize")]

    def go(dry_run: bool = False, **changed: Any) -> None:
        settings = TrainConfig(options={**options, **changed})
        train(tiny, rows, settings, dry_run=dry_run, cache=cache, emit=events.append, cancel=CancelToken())

    seen = inspect_data(tiny, rows, config, cache=cache, emit=events.append, cancel=CancelToken())
    assert tokenised() == ["tokenize"]
    go(dry_run=True)
    reports = events.of(DataInspected)
    assert reports == [seen]
    assert tokenised() == []
    go()
    assert tokenised() == []
    go(max_length=60)  # other settings, other tokens
    assert tokenised() == ["tokenize"]
    rows[2]["answer"] = "Another one."  # the same list, another content
    go()
    assert tokenised() == ["tokenize"]


def test_the_report_before_a_training_comes_without_token_views(tiny: LoadedModel, events: Events) -> None:
    try_to_train(tiny, events, ROWS)
    (report,) = (event for event in events if isinstance(event, DataInspected))
    assert report.views == ()
    assert (report.rows, report.max_length) == (6, 1024)


def test_the_report_of_rows_that_are_refused_comes_before_the_error(tiny: LoadedModel, events: Events) -> None:
    with pytest.raises(DataFormatError):
        try_to_train(tiny, events, [*ROWS, {"question": "Q", "answer": ""}])
    (report,) = (event for event in events if isinstance(event, DataInspected))
    assert names(report) == ["empty-answer"]


def test_rows_are_known_by_their_content(tmp_path: Path) -> None:
    import datasets
    import numpy as np

    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n')
    first = content_of(read_table(str(file)))
    assert first == content_of(read_table(str(file)))
    file.write_text('{"text": "b"}\n')
    assert content_of(read_table(str(file))) != first
    data = datasets.Dataset.from_list([{"text": "a"}, {"text": "b"}])
    assert content_of(read_table(data)) == content_of(read_table(data))
    assert content_of(read_table(data)) != content_of(read_table(data, split="[:1]"))
    long = [{"messages": np.arange(5000)}, {"messages": np.arange(5000)}]
    before = content_of(read_table(long))
    long[1]["messages"][2500] = 0  # where a repr would leave it out
    assert content_of(read_table(long)) != before
    assert content_of(read_table([{"text": lambda: None}])) is None
