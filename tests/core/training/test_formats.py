from __future__ import annotations

from typing import Any

import pytest

from llmmagic.core.errors import ConfigError, DataFormatError
from llmmagic.core.training.formats import Sample, detect_layout
from llmmagic.core.training.llama2 import parse_llama2
from llmmagic.core.training.sources import read_table

PAIR = ({"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"})
SYSTEM = {"role": "system", "content": "S"}


def understand(row: dict[str, Any], columns: dict[str, str] | None = None) -> tuple[str, Sample]:
    table = read_table([row])
    layout = detect_layout(table, columns)
    return layout.format, layout.sample(row, 1)


@pytest.mark.parametrize(
    ("row", "format_name"),
    [
        ({"question": "Q", "answer": "A"}, "question/answer"),
        ({"source": "x", "focus": "y", "Question": " Q ", "Answer": "A"}, "question/answer"),
        ({"prompt": "Q", "completion": "A"}, "prompt/completion"),
        ({"prompt": [PAIR[0]], "completion": [PAIR[1]]}, "prompt/completion"),
        ({"instruction": "Q", "input": "", "output": "A"}, "instruction/input/output"),
        ({"instruction": "Q", "response": "A"}, "instruction/response"),
        ({"messages": list(PAIR)}, "messages"),
        ({"messages": [*PAIR, {"role": "user", "content": "and?"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, PAIR[1]]}, "messages"),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "conversations"),
        ({"text": "<s>[INST] Q [/INST] A </s>"}, "llama-2 text"),
    ],
)
def test_every_format_becomes_the_same_messages(row: dict[str, Any], format_name: str) -> None:
    assert understand(row) == (format_name, Sample(1, messages=PAIR))


def test_system_prompts_come_first() -> None:
    expected = (SYSTEM, *PAIR)
    assert understand({"question": "Q", "answer": "A", "system": "S"})[1].messages == expected
    text = "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ [/INST] A </s>"
    assert understand({"text": text})[1].messages == expected
    sharegpt = [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    assert understand({"conversations": sharegpt})[1].messages == expected


def test_an_input_is_appended_to_its_instruction() -> None:
    sample = understand({"instruction": "Translate.", "input": "Hund", "output": "dog"})[1]
    assert sample.messages[0]["content"] == "Translate.\n\nHund"


def test_plain_text_stays_text() -> None:
    assert understand({"text": "Once upon a time"}) == ("text", Sample(1, text="Once upon a time"))


def test_numbers_are_written_out() -> None:
    assert understand({"question": "6 x 7?", "answer": 42})[1].messages[1]["content"] == "42"


@pytest.mark.parametrize(
    "text",
    [
        "<s>[INST] Q [/INST] A </s><s>[INST] Q2 [/INST] A2 </s>",
        "[INST] Q [/INST] A [INST] Q2 [/INST] A2",
        "<s> [INST]Q[/INST]A</s>\n<s>[INST] Q2 [/INST] A2",
    ],
)
def test_llama2_text_of_several_turns(text: str) -> None:
    assert [m["content"] for m in parse_llama2(text)] == ["Q", "A", "Q2", "A2"]


def test_a_mapping_overrides_guessing() -> None:
    row = {"question": "no", "answer": "no", "ask": "Q", "reply_text": "A"}
    assert understand(row, {"ask": "prompt", "reply_text": "completion"}) == (
        "prompt/completion",
        Sample(1, messages=PAIR),
    )
    assert understand({"body": "words"}, {"body": "text"}) == ("text", Sample(1, text="words"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"questoin": "prompt", "answer": "completion"}, "no column 'questoin'. Did you mean 'question'"),
        ({"question": "promt", "answer": "completion"}, "cannot be taken for 'promt'. Did you mean 'prompt'"),
        ({"question": "prompt"}, "taken for prompt, which is no format"),
        ({"question": "prompt", "answer": "prompt"}, "Two columns"),
    ],
)
def test_a_mapping_that_does_not_add_up(columns: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        understand({"question": "Q", "answer": "A"}, columns)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q", "answer": " "}, "Row 1 has no answer: column 'answer' is empty"),
        ({"question": "Q", "answer": None}, "Row 1 has no answer"),
        ({"question": "", "answer": "A"}, "Row 1 has no question"),
        ({"messages": [PAIR[0]]}, "Row 1 has no answer: no message is the assistant's"),
        ({"messages": [PAIR[0], {"role": "assistant", "content": ""}]}, "Row 1 has no answer: message 2 is empty"),
        ({"messages": [{"role": "wizard", "content": "x"}, PAIR[1]]}, "message 1 has the role 'wizard'"),
        ({"messages": []}, "Row 1 has no messages"),
        ({"text": "<s>[INST] Q [/INST] </s>"}, "Row 1 has no answer"),
        ({"text": "well [INST] Q [/INST] A"}, "no Llama-2 prompt like the others: expected"),
        ({"text": ""}, "Row 1 is empty"),
    ],
)
def test_unusable_rows_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        understand(row)


def test_unknown_columns_are_listed() -> None:
    with pytest.raises(DataFormatError, match=r"columns a, b\..*--map COLUMN=prompt"):
        understand({"a": "x", "b": "y"})
