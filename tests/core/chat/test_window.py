"""The context window is exact: what it says is what the model gets."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.chat.window import ContextWindow, WindowPlan
from llmmagic.core.config import Overflow
from llmmagic.core.errors import ChatError, ContextOverflowError
from llmmagic.core.events import WindowReport
from tests.core.chat.tokenizers_for_tests import HAND_WRITTEN, templates, tokenizer

REAL = [
    "cohere", "deepseekv3", "gemma", "gemma3", "glm4moe", "gptoss", "llama3_1", "llava_next",
    "nemotron_3_nano", "phi3", "qwen2_5", "qwen3", "qwen3_5_nothink", "qwen3_8", "idefics3",
]  # fmt: skip


def make(template: str, limit: int = 200, kind: str = "bytes", overflow: Overflow = "rolling") -> ContextWindow:
    return ContextWindow(ChatTemplate.from_tokenizer(tokenizer(kind, template)), limit, overflow=overflow)


def talk_of(turns: int, words: str = "words") -> Conversation:
    """Turns of 20 + 18 + len(words) * 2 tokens in ChatML on bytes: '<|im_start|>user\\n' is 6, the end 2."""
    talk = Conversation()
    for i in range(turns):
        talk.add("user", f"{words}{i}")
        talk.add("assistant", f"{words}{i}", finish_reason="stop")
    return talk


def shape(report: WindowReport) -> list[tuple[str, int]]:
    return [(segment.kind, segment.tokens) for segment in report.segments]


def test_nothing_written_is_no_draft() -> None:
    window = make("chatml")
    kinds = [kind for kind, _ in shape(window.plan(Conversation(), draft="", reserve_tokens=10).report)]
    assert kinds == ["template", "reserve", "free"]
    kinds = [kind for kind, _ in shape(window.plan(Conversation(), draft="a", reserve_tokens=10).report)]
    assert kinds == ["template", "draft", "reserve", "free"]


def check(plan: WindowPlan, window: ContextWindow, reference: Any, *, prompt: bool = True) -> None:
    report = plan.report
    inside = [segment for segment in report.segments if segment.kind not in ("reserve", "free")]
    assert sum(segment.tokens for segment in inside) == report.prompt_tokens == len(plan.prompt_ids)
    assert sum(segment.tokens for segment in report.segments) == window.context_window
    assert all(segment.tokens >= 0 for segment in report.segments)
    assert plan.prompt_ids == reference.apply_chat_template(
        plan.messages, add_generation_prompt=prompt, tokenize=True, return_dict=False
    )


def test_segments_of_a_short_conversation() -> None:
    window = make("chatml")
    talk = Conversation(system="Hi.")
    talk.add("user", "12345")
    talk.add("assistant", "123", finish_reason="stop")
    report = window.plan(talk, draft="1", reserve_tokens=20).report
    # '<|im_start|>' + 'system\n' + 'Hi.' + '<|im_end|>\n' is 1 + 7 + 3 + 2 tokens of one byte each.
    assert shape(report) == [
        ("template", 11), ("system", 13), ("turn", 13 + 16), ("draft", 9), ("reserve", 20), ("free", 118),
    ]  # fmt: skip
    assert list(report.message_tokens.values()) == [13, 16]


def test_the_templates_own_system_prompt_is_seen_and_can_be_silenced() -> None:
    window, talk = make("default-system"), Conversation()
    default = dict(shape(window.plan(talk, draft="hi", reserve_tokens=1).report))
    assert default["system"] == len("system\nYou are a helpful AI assistant named SmolLM.\n") + 2
    talk.system = ""
    assert dict(shape(window.plan(talk, draft="hi", reserve_tokens=1).report))["system"] == len("system\n\n") + 2
    talk.system = "Be brief."
    assert (
        dict(shape(window.plan(talk, draft="hi", reserve_tokens=1).report))["system"] == len("system\nBe brief.\n") + 2
    )


def test_an_empty_system_prompt_leaves_templates_without_a_default_alone() -> None:
    talk = Conversation(system="")
    assert make("llama-2").plan(talk, draft="hi", reserve_tokens=1).messages == [{"role": "user", "content": "hi"}]


def test_a_system_prompt_goes_into_the_first_message_where_a_template_has_no_place_for_it() -> None:
    plan = make("no-system").plan(Conversation(system="Be brief."), draft="hi", reserve_tokens=1)
    assert plan.messages == [{"role": "user", "content": "Be brief.\n\nhi"}]
    assert ("system", len("[INST] Be brief.\n\n")) in shape(plan.report)


def test_overflow_is_forecast_then_happens_and_stays() -> None:
    window, talk = make("chatml", 200), talk_of(4)
    forecast = window.plan(talk, draft="words4", reserve_tokens=50).report
    first = talk.path()[:4]  # one turn less would fit, but not below the low-water mark
    assert forecast.newly_dropped_message_ids == tuple(m.id for m in first)
    assert (forecast.newly_dropped_turns, forecast.newly_dropped_tokens) == (2, 2 * (14 + 19))
    assert window.plan(talk, draft="words4", reserve_tokens=50).report == forecast  # a forecast changes nothing
    talk.add("user", "words4")
    sent = window.plan(talk, reserve_tokens=50).report
    assert sent.newly_dropped_message_ids == forecast.newly_dropped_message_ids
    assert sent.prompt_tokens == forecast.prompt_tokens
    again = window.plan(talk, reserve_tokens=50).report
    assert (again.dropped_message_ids, again.newly_dropped_turns) == (sent.dropped_message_ids, 0)
    talk.add("assistant", "ok", finish_reason="stop")
    talk.system = None
    assert window.plan(talk, draft="x", reserve_tokens=1).report.dropped_message_ids == sent.dropped_message_ids


def test_trimming_goes_below_the_low_water_mark_so_that_the_next_turns_drop_nothing() -> None:
    window, talk, beginnings = make("chatml", 400), Conversation(), []
    for i in range(30):
        talk.add("user", f"question {i:02d}")
        plan = window.plan(talk, reserve_tokens=40)
        beginnings.append(plan.messages[0]["content"])
        if plan.report.newly_dropped_turns:
            assert plan.report.prompt_tokens + 40 <= 300
        talk.add("assistant", "answer", finish_reason="stop")
    assert len(set(beginnings)) < 12  # the prefix of the prompt, and its KV cache, live for several turns


@pytest.mark.parametrize("name", ["chatml", "default-system", "llama-2", "gemma"])
@pytest.mark.parametrize("said", ["?", "question 99", "question " * 6])
def test_what_is_read_ahead_is_what_the_next_trimmed_prompt_begins_with(name: str, said: str) -> None:
    window, talk = make(name, 500), Conversation()
    ahead: list[int] = []
    for i in range(40):
        talk.add("user", f"question {i:02d}")
        assert window.prepare(talk, reserve_tokens=40) == []  # no reply to go on from
        talk.add("assistant", "answer", finish_reason="stop")
        ahead = window.prepare(talk, reserve_tokens=40)
        if ahead and window.plan(talk, draft=said, reserve_tokens=40).report.newly_dropped_turns:
            break
        assert not ahead or window.plan(talk, draft="", reserve_tokens=40).report.prompt_tokens > 350
    forecast = window.plan(talk, draft=said, reserve_tokens=40)
    talk.add("user", said)
    sent = window.plan(talk, reserve_tokens=40)
    assert sent.report.newly_dropped_turns == forecast.report.newly_dropped_turns > 0
    assert sent.prompt_ids[: len(ahead)] == ahead
    rest = window.template.decode(sent.prompt_ids[len(ahead) :])
    assert len(rest) < len(said) + 40  # nothing but the message and what stands around it
    assert sent.report.prompt_tokens + 40 <= 375 + len(said)  # the low-water mark, with what was not foreseen on top


def test_nothing_is_read_ahead_where_nothing_may_be_dropped() -> None:
    talk = talk_of(5)
    assert make("chatml", 200, overflow="stop").prepare(talk, reserve_tokens=20) == []
    assert make("chatml", 2000).prepare(talk, reserve_tokens=20) == []
    assert make("chatml", 200).prepare(Conversation(), reserve_tokens=20) == []
    assert make("chatml", 200).prepare(talk, reserve_tokens=20)


def test_a_message_too_long_for_what_was_read_ahead_drops_more() -> None:
    window, talk = make("chatml", 200), talk_of(5)
    window.prepare(talk, reserve_tokens=20)
    dropped = [window.plan(talk, draft="x" * n, reserve_tokens=20).report.newly_dropped_turns for n in (10, 40, 120)]
    assert dropped == sorted(dropped)
    assert dropped[0] == dropped[1] < dropped[2]


def test_stop_refuses_with_the_figures_and_drops_nothing() -> None:
    window, talk = make("chatml", 200, overflow="stop"), talk_of(4)
    with pytest.raises(ContextOverflowError, match="do not fit into the context window of 200") as caught:
        window.plan(talk, draft="words4", reserve_tokens=60)
    assert (caught.value.needed_tokens, caught.value.context_window) == (11 + 4 * 33 + 14 + 60, 200)
    assert len(talk.path()) == 8


def test_a_pinned_message_keeps_its_turn() -> None:
    window, talk = make("llama-2", 260), talk_of(6)
    pinned = talk.path()[1]
    talk.pin(pinned.id)
    plan = window.plan(talk, draft="words6", reserve_tokens=100)
    assert pinned.id not in plan.report.dropped_message_ids
    assert [message["content"] for message in plan.messages[:2]] == ["words0", "words0"]
    assert [s.message_ids for s in plan.report.segments if s.kind == "pinned"] == [tuple(m.id for m in talk.path()[:2])]
    assert plan.report.newly_dropped_turns > 0
    talk.unpin(pinned.id)
    assert pinned.id in window.plan(talk, draft="words6", reserve_tokens=100).report.dropped_message_ids


def test_a_draft_that_cannot_fit_is_refused_with_figures_and_nothing_is_lost() -> None:
    window, talk = make("chatml", 100), talk_of(3)
    with pytest.raises(ContextOverflowError, match="158 tokens of the message") as caught:
        window.plan(talk, draft="x" * 150, reserve_tokens=20)
    assert caught.value.needed_tokens == 158 + 11 + 20
    talk.pin(talk.path()[0].id)
    with pytest.raises(ContextOverflowError, match="33 pinned") as caught:
        window.plan(talk, draft="x" * 40, reserve_tokens=20)
    assert "unpin messages" in caught.value.hint
    assert len(talk.path()) == 6


def test_an_unanswered_conversation_shows_what_the_window_holds_now() -> None:
    window, talk = make("chatml", 200), talk_of(5)
    plan = window.plan(talk, reserve_tokens=100)
    assert plan.report.prompt_tokens == 5 * 33
    assert (plan.report.reserve_tokens, plan.report.dropped_message_ids) == (35, ())
    check(plan, window, tokenizer("bytes", "chatml"), prompt=False)


def test_an_empty_conversation_shows_what_comes_with_a_first_message() -> None:
    for name in ("default-system", "llama-2", "gemma"):
        plan = make(name).plan(Conversation(), draft="", reserve_tokens=20)
        check(plan, make(name), tokenizer("bytes", name))
        assert plan.report.reserve_tokens == 20
    assert dict(shape(make("default-system").plan(Conversation(), reserve_tokens=20).report))["system"] == 54


def test_a_conversation_many_times_the_window_is_laid_out_once_and_forecast_exactly() -> None:
    talk = talk_of(60)
    window = make("chatml", 300)
    for draft in ("w", "wo", "wor" * 30):
        plan = window.plan(talk, draft=draft, reserve_tokens=50)
        assert plan == make("chatml", 300).plan(talk, draft=draft, reserve_tokens=50)
        check(plan, window, tokenizer("bytes", "chatml"))
    talk.add("user", "sent")
    sent = window.plan(talk, reserve_tokens=50).report
    assert (sent.newly_dropped_turns, sent.newly_dropped_tokens) == (56, 10 * 33 + 46 * 35)


def test_another_limit_decides_anew() -> None:
    talk = talk_of(5)
    talk.add("user", "words5")
    assert make("chatml", 150).plan(talk, reserve_tokens=20).report.newly_dropped_turns > 0
    assert make("chatml", 500).plan(talk, reserve_tokens=20).report.dropped_message_ids == ()


def test_an_edit_before_what_was_dropped_brings_it_back() -> None:
    window, talk = make("chatml", 200), talk_of(5)
    talk.add("user", "words5")
    assert window.plan(talk, reserve_tokens=20).report.newly_dropped_turns > 0
    talk.edit(talk.path()[4].id, "new question")
    plan = window.plan(talk, reserve_tokens=20)
    assert plan.report.dropped_message_ids == ()
    assert plan.messages[0]["content"] == "words0"


def test_another_reply_to_the_same_question_is_planned_from_the_question() -> None:
    window, talk = make("chatml", 300), talk_of(2)
    question = talk.path()[2]
    talk.add("assistant", "", parent=question.id, finish_reason="cancelled")
    plan = window.plan(talk, reserve_tokens=20, leaf=question.id)
    assert [message["content"] for message in plan.messages] == ["words0", "words0", "words1"]


def test_a_stopped_reply_is_continued_after_its_own_text() -> None:
    window, talk = make("chatml"), Conversation()
    talk.add("user", "Count.")
    reply = talk.add("assistant", "one, two", finish_reason="cancelled")
    plan = window.plan(talk, reserve_tokens=20, continue_reply=True)
    before = window.template.encode([{"role": "user", "content": "Count."}])
    assert plan.prompt_ids == before + window.template.encoder.encode("one, two")
    assert plan.report.message_tokens[reply.id] == len("one, two")
    assert [(s.kind, s.tokens) for s in plan.report.segments][:2] == [("template", 11), ("turn", 14 + len("one, two"))]
    with pytest.raises(ChatError, match="no reply to go on with"):
        window.plan(Conversation(), reserve_tokens=20, continue_reply=True)


def test_turns_that_a_continued_reply_drops_stay_dropped() -> None:
    window, talk = make("chatml", 200), talk_of(4)
    talk.add("user", "Count.")
    talk.add("assistant", "one, two, " * 3, finish_reason="cancelled")
    sent = window.plan(talk, reserve_tokens=40, continue_reply=True).report
    assert sent.newly_dropped_turns > 0
    later = window.plan(talk, draft="x", reserve_tokens=1).report
    assert later.dropped_message_ids == sent.dropped_message_ids


def test_continuing_equals_transformers_where_the_template_writes_a_space() -> None:
    window, talk = make("llama-2", kind="spaces-legacy"), Conversation()
    talk.add("user", "Count.")
    talk.add("assistant", "one, two", finish_reason="cancelled")
    plan = window.plan(talk, reserve_tokens=20, continue_reply=True)
    messages = [{"role": m.role, "content": m.content} for m in talk.path()]
    expected = tokenizer("spaces-legacy", "llama-2").apply_chat_template(
        messages, continue_final_message=True, tokenize=True, return_dict=False
    )
    assert plan.prompt_ids == expected


def test_thinking_that_the_template_drops_is_not_counted() -> None:
    window, talk = make("qwen3", 400), Conversation()
    talk.add("user", "2 + 2?")
    reply = talk.add("assistant", "<think>\n" + "hm " * 40 + "\n</think>\n\nFour.", finish_reason="stop")
    now = window.plan(talk, reserve_tokens=20).report.message_tokens[reply.id]
    later = window.plan(talk, draft="And 3 + 3?", reserve_tokens=20).report.message_tokens[reply.id]
    assert later == len("assistant\nFour.\n") + 2
    assert now > later + 120


def test_a_reply_stopped_before_its_first_token_is_not_sent() -> None:
    window, talk = make("llama-2"), Conversation()
    talk.add("user", "one")
    talk.add("assistant", "", finish_reason="cancelled")
    plan = window.plan(talk, draft="two", reserve_tokens=20)
    assert plan.messages == [{"role": "user", "content": "one\n\ntwo"}]  # the template demands alternation
    assert shape(plan.report)[:3] == [
        ("turn", len("[INST] one\n\n") + 1),
        ("draft", len("two [/INST]")),
        ("reserve", 20),
    ]


@pytest.mark.parametrize("name", sorted(templates()))
def test_every_message_is_given_its_own_text(name: str) -> None:
    """On one token a byte, a message has at least the tokens of its text; the newest reply with its thinking."""
    window = make(name, 4000)
    talk = Conversation(system="Be exact.")
    texts = ["What is 2+2?", "Four.", " And three and three? ", "<think>\nhm\n</think>\n\nSix."]
    ids = [talk.add(("user", "assistant")[i % 2], text).id for i, text in enumerate(texts)]
    report = window.plan(talk, draft="ok then", reserve_tokens=20).report
    shares = [report.message_tokens[i] for i in ids]
    assert [share - len(text.strip()) for share, text in zip(shares[:3], texts, strict=False)] >= [0, 0, 0]
    assert len("Six.") <= shares[3] < 80
    assert max(shares[:3]) < 80
    assert dict(shape(report))["draft"] >= len("ok then")
    assert dict(shape(report))["system"] >= len("Be exact.")


TEXTS = st.text(st.sampled_from("ab \n<é東"), min_size=1, max_size=30) | st.sampled_from(
    ["<|im_end|>", "<think>\nhm\n</think>\n\nok", "</think>", "{{ x }}", " ", "[INST] a [/INST]", "word " * 12]
)
ACTIONS = st.one_of(
    st.tuples(st.just("send"), TEXTS),
    st.tuples(st.just("send"), TEXTS),
    st.tuples(st.just("draft"), TEXTS),
    st.tuples(st.sampled_from(["edit", "pin", "unpin", "select", "regenerate"]), st.integers(0, 40)),
    st.tuples(st.just("limit"), st.integers(60, 600)),
    st.tuples(st.just("policy"), st.sampled_from(["rolling", "stop"])),
    st.tuples(st.just("system"), st.sampled_from([None, "", "Be brief."])),
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in HAND_WRITTEN for kind in ("spaces-first", "spaces-legacy", "byte-bpe")),
        *((name, "bytes") for name in REAL),
    ],
)
@given(actions=st.lists(ACTIONS, min_size=3, max_size=14), limit=st.integers(60, 600))
@settings(max_examples=12, deadline=None)
def test_whatever_is_done_the_window_is_exact(name: str, kind: str, actions: list[Any], limit: int) -> None:
    reference = tokenizer(kind, name)
    window, talk = make(name, limit, kind), Conversation()
    for action, value in actions:
        ids = [message.id for message in talk]
        target = ids[value % len(ids)] if isinstance(value, int) and ids else None
        if action == "limit":
            window = make(name, value, kind, window.overflow)
        elif action == "policy":
            window = make(name, window.context_window, kind, value)
        elif action == "system":
            talk.system = value
        elif action == "draft":
            before = (talk.head, list(talk))
            plan_and_check(window, talk, reference, draft=value)
            assert (talk.head, list(talk)) == before
        elif action == "send":
            talk.add("user", value)
            if plan_and_check(window, talk, reference) is None:
                talk.select(talk.edit(talk.path()[-1].id, "a").id)
            talk.add("assistant", "a reply", finish_reason="stop")
        elif target is not None and action in ("pin", "unpin", "select"):
            getattr(talk, action)(target)
        elif target is not None and talk[target].role == "user":
            leaf = talk.edit(target, "other").id if action == "edit" else target
            plan_and_check(window, talk, reference, leaf=leaf)
            talk.add("assistant", "another reply", parent=leaf, finish_reason="stop")


def plan_and_check(window: ContextWindow, talk: Conversation, reference: Any, **options: Any) -> WindowPlan | None:
    path = talk.path(options.get("leaf"))
    marked = next((m.mark for m in reversed(path) if m.mark), None)
    try:
        plan = window.plan(talk, reserve_tokens=30, **options)
    except ContextOverflowError as refused:
        error = refused
    else:
        error = None
    if error is not None:
        assert error.needed_tokens > error.context_window == window.context_window
        return None
    check(plan, window, reference)
    report = plan.report
    assert report.prompt_tokens + report.reserve_tokens <= window.context_window
    kept = [m for m in path if m.id not in report.dropped_message_ids]
    assert not any(m.pinned for m in path if m.id in report.dropped_message_ids)
    assert path == [] or options.get("draft") or path[-1] in kept
    everything = "\n".join(str(message["content"]) for message in plan.messages)
    assert all(str([m.content])[2:-2] in everything or m.content in everything for m in kept)
    assert not talk.system or talk.system in everything
    if marked is not None and marked.context_window == window.context_window:
        # What a send dropped stays dropped: nothing before the mark is in, unless pinned.
        start = [m.id for m in path].index(marked.start_id) if marked.start_id in [m.id for m in path] else 0
        assert set(report.message_tokens) & {m.id for m in path[:start]} <= _turns_with_pins(path)
    return plan


def _turns_with_pins(path: list[Any]) -> set[str]:
    turns: list[list[Any]] = []
    for message in path:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return {m.id for turn in turns if any(m.pinned for m in turn) for m in turn}


def test_counting_a_draft_in_a_long_conversation_is_quick() -> None:
    window, talk = make("default-system", 60_000, "byte-bpe"), talk_of(100, "some words of a message " * 10)
    window.plan(talk, draft="a", reserve_tokens=100)
    times = []
    for i in range(20):
        begin = time.process_time()
        window.plan(talk, draft="a draft that grows " * i + "x", reserve_tokens=100)
        times.append(time.process_time() - begin)
    assert sorted(times)[10] < 0.05  # a tenth of that on an idle machine
