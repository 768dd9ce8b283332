"""Estimates of token counts: near enough at first, nearer with each reply."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmmagic.core.chat.estimate import EstimatingEncoder, estimating_template
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.chat.window import ContextWindow
from llmmagic.core.errors import ChatTemplateError

TALK = [
    {"role": "system", "content": "You are a careful physician."},
    {"role": "user", "content": "What should I do about a sprained ankle?"},
]


def count(encoder: EstimatingEncoder, text: str) -> int:
    return len(encoder.encode(text))


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", 0, 0),
        ("Hello", 1, 1),
        ("What should I do about a sprained ankle?", 9, 12),
        ("gastroesophageal reflux disease", 5, 9),
        ("1234567890", 3, 5),
        ("東京は日本の首都です。", 8, 14),
        ("Привет, как дела?", 5, 12),
        ("def f(x):\n    return x + 1\n", 10, 18),
        ("😀" * 10, 5, 30),
        ("\n" * 50, 1, 3),
    ],
)
def test_first_guesses_are_of_the_right_size(text: str, least: int, most: int) -> None:
    assert least <= count(EstimatingEncoder(), text) <= most


def test_shares_add_up_to_the_prompt_and_are_marked() -> None:
    window = ContextWindow(estimating_template(), 500)
    talk = Conversation(system="Be brief.")
    user = talk.add("user", "What is gout?")
    talk.pin(user.id)
    talk.add("assistant", "Arthritis caused by crystals of uric acid in a joint.")
    report = window.plan(talk, draft="And then?", reserve_tokens=50).report
    assert not report.exact
    assert sum(segment.tokens for segment in report.segments) == 500
    assert [segment.kind for segment in report.segments] == ["template", "system", "pinned", "draft", "reserve", "free"]


def test_what_a_reply_was_sets_the_scale() -> None:
    encoder = EstimatingEncoder()
    text = "word " * 40
    encoder.learn_scale(text, 80)
    assert count(encoder, "word " * 100) == pytest.approx(200, rel=0.05)
    starts = encoder._locate(text)
    assert list(starts) == sorted(starts)
    assert max(starts) < len(text)


def test_a_short_or_absurd_reply_does_not_turn_the_scale() -> None:
    encoder = EstimatingEncoder()
    before = count(encoder, "word " * 100)
    encoder.learn_scale("yes", 40)
    assert count(encoder, "word " * 100) == before
    encoder.learn_scale("word " * 50, 10**6)
    assert count(encoder, "word " * 100) <= 3 * before + 3


def test_what_the_servers_template_adds_is_learned_and_belongs_to_the_template() -> None:
    template = estimating_template()
    encoder = template.encoder
    assert isinstance(encoder, EstimatingEncoder)
    before = len(template.encode(TALK))
    encoder.learn_added(before, before + 70)
    assert len(template.encode(TALK)) == before + 70
    report = ContextWindow(template, 500).plan(Conversation(), draft="Hi", reserve_tokens=10).report
    assert next(segment.tokens for segment in report.segments if segment.kind == "template") >= 70
    encoder.learn_added(before + 70, before)
    assert len(template.encode(TALK)) == before
    assert count(encoder, "Hi") == 1  # nothing of it sticks to texts


def test_ids_that_mean_nothing_are_not_read() -> None:
    with pytest.raises(ChatTemplateError, match="not here"):
        estimating_template().decode([0, 0])


@pytest.mark.slow
def test_it_is_near_a_real_tokenizer_on_real_text(demo_folder: Path, medquad: Path) -> None:
    import json

    from tokenizers import Tokenizer

    real = Tokenizer.from_file(str(demo_folder / "tokenizer.json"))
    lines = (medquad / "eval.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    text = "\n".join(str(value) for line in lines for value in json.loads(line).values())
    assert count(EstimatingEncoder(), text) == pytest.approx(len(real.encode(text).ids), rel=0.15)
