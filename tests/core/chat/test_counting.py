"""What is no longer in the window is counted as exactly as what is, and without laying out all of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.chat.turns import Turn
from llmmagic.core.chat.window import ContextWindow
from tests.core.chat.test_window import REAL
from tests.core.chat.tokenizers_for_tests import HAND_WRITTEN, tokenizer

ALL = 1_000_000
TEXTS = st.sampled_from(["a", "two words", "  spaced  ", "line\nline\n", "<think>\nhm\n</think>\n\nso", "Ünïcödé ☃"])
REPLIES = st.one_of(st.sampled_from([None, ""]), TEXTS)
TURNS = st.lists(st.tuples(TEXTS, REPLIES, st.booleans()), min_size=2, max_size=90)


def talk_of(turns: Sequence[tuple[str, str | None, bool]], system: str | None) -> Conversation:
    talk = Conversation(system=system)
    for question, answer, pinned in turns:
        said = talk.add("user", question)
        if answer is not None:
            talk.add("assistant", answer, finish_reason="stop")
        if pinned:
            talk.pin(said.id)
    return talk


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "spaces-first") for name in HAND_WRITTEN), *((name, "bytes") for name in (*HAND_WRITTEN, *REAL))],
)
@given(turns=TURNS, system=st.sampled_from([None, "", "Be brief."]))
@settings(max_examples=4, deadline=None)
def test_a_message_counts_as_much_as_in_a_prompt_that_has_all(
    name: str, kind: str, turns: list[tuple[str, str | None, bool]], system: str | None
) -> None:
    template = ChatTemplate.from_tokenizer(tokenizer(kind, name))
    talk = talk_of(turns, system)
    exact = ContextWindow(template, ALL).plan(talk, draft="next", reserve_tokens=10).report.message_tokens
    older = [message.id for message in talk.path()][:-2]  # what comes last can never have been dropped
    assert ContextWindow(template, 500).count(talk, older) == {i: exact[i] for i in older}


def long_talk(turns: int = 400) -> Conversation:
    chance = random.Random(1)
    answers = [(" ".join(["word"] * chance.randint(1, 30)), "reply " * chance.randint(0, 20), False)] * 1
    return talk_of(
        [(f"{i} " * chance.randint(1, 9), "reply " * chance.randint(0, 20), i in (7, 300)) for i in range(turns)]
        + answers,
        "Be brief.",
    )


@pytest.mark.parametrize("name", ["chatml", "llama-2", "default-system", "drops-thinking", "no-system"])
@pytest.mark.parametrize("limit", [300, 4000])
def test_laying_out_only_the_end_of_a_long_conversation_plans_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    template = ChatTemplate.from_tokenizer(tokenizer("bytes", name))
    talk = long_talk()
    window = ContextWindow(template, limit)
    quick = window.plan(talk, draft="next", reserve_tokens=50)
    assert quick.report.newly_dropped_tokens is None  # hundreds of turns that nobody has counted
    window.count(talk, quick.report.newly_dropped_message_ids)
    counted = window.plan(talk, draft="next", reserve_tokens=50)
    assert counted.report.newly_dropped_tokens is not None

    def everything(turns: Sequence[Turn], characters: int, start: int) -> int:
        return start

    monkeypatch.setattr("llmmagic.core.chat.window._reaching", everything)
    assert counted == ContextWindow(template, limit).plan(talk, draft="next", reserve_tokens=50)
    assert quick.prompt_ids == counted.prompt_ids


def test_what_was_counted_is_counted_anew_when_it_changes() -> None:
    template = ChatTemplate.from_tokenizer(tokenizer("bytes", "no-system"))
    talk = talk_of([("one", "two", False)] * 4, None)
    window = ContextWindow(template, 100)
    ids = [message.id for message in talk.path()]
    before = window.count(talk, ids[:4])
    talk.update(ids[1], content="two and more")
    assert window.count(talk, ids[:4]) == {**before, ids[1]: before[ids[1]] + len(" and more")}
    assert window.count(talk, ["nobody"]) == {}
