"""What was collected in chats becomes rows: by the method, with a word on what is of no use."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmmagic import Session
from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.errors import ConfigError, DataNotFoundError
from llmmagic.core.events import Notice, TrainFinished, TrainStarted
from llmmagic.core.training.collected import collect, is_collected


def talk(question: str, reply: str, store: ConversationStore | None = None, title: str = "") -> Conversation:
    conversation = Conversation(title=title, journal=store)
    conversation.add("user", question)
    conversation.add("assistant", reply, finish_reason="stop", model_id="tiny-random")
    return conversation


@pytest.fixture
def store(tmp_path: Path) -> ConversationStore:
    return ConversationStore(tmp_path / "conversations.db")


def fill(store: ConversationStore) -> None:
    """A better answer, two ratings, a reply that was regenerated, one that was edited, one that nobody judged."""
    better = talk("2 + 2?", "Five.", store)
    better.better(better.path()[-1].id, "Four.")
    up, down = talk("Who?", "I.", store, title="Good one"), talk("What?", "No.", store)
    up.rate(up.path()[-1].id, 1)
    down.rate(down.path()[-1].id, -1)
    again = talk("Where?", "There.", store, title="Places")
    again.add("assistant", "Here.", parent=again.path()[0].id, finish_reason="stop", model_id="tiny-random")
    again.add("user", "Thanks.")
    again.add("assistant", "Wel", finish_reason="cancelled", model_id="tiny-random")
    edited = talk("When?", "Nevr.", store)
    edited.edit(edited.path()[-1].id, "Never.")
    talk("Why?", "Because.", store)


def test_pairs_come_from_better_answers_regenerated_and_edited_replies(store: ConversationStore) -> None:
    fill(store)
    notices: list[Notice] = []
    rows = collect("feedback", "dpo", store, {}, notices.append)
    found = {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows}  # type: ignore[union-attr,index,call-overload]
    assert found == {("Four.", "Five."), ("Here.", "There."), ("Never.", "Nevr.")}
    (notice,) = notices
    assert notice.text == (
        "Feedback: 3 pairs of replies. Of no use are replies: 1 stopped before their end, "
        "2 rated, with no other reply to compare with."
    )


def test_each_method_takes_what_it_can_use(store: ConversationStore) -> None:
    fill(store)

    def rows(method: str) -> list[dict[str, object]]:
        return list(collect("feedback", method, store, {}, lambda notice: None))  # type: ignore[arg-type]

    assert [row["label"] for row in rows("kto")] == [True, False]
    learnt = [row["messages"][-1]["content"] for row in rows("sft")]  # type: ignore[index]
    assert learnt == ["Four.", "I.", "Never."]
    assert [row["prompt"][-1]["content"] for row in rows("grpo")] == ["2 + 2?", "Where?", "When?", "Who?", "What?"]  # type: ignore[index]
    with pytest.raises(ConfigError, match="Pre-training reads raw text"):
        rows("pretrain")


def test_without_feedback_it_says_how_to_make_some(store: ConversationStore) -> None:
    talk("Why?", "Because.", store)
    with pytest.raises(DataNotFoundError, match=r"no feedback that dpo can learn from.*Prefer one reply to another"):
        collect("feedback", "dpo", store, {}, lambda notice: None)
    rated = talk("Who?", "I.", store)
    rated.rate(rated.path()[-1].id, 1)
    with pytest.raises(DataNotFoundError, match=r"1 rated, with no other reply.*The method kto could use"):
        collect("feedback", "dpo", store, {}, lambda notice: None)
    with pytest.raises(DataNotFoundError, match=r"no feedback that kto can learn from"):
        collect("feedback", "kto", None, {}, lambda notice: None)


def test_conversations_are_chosen_by_name_title_id_or_as_the_last(store: ConversationStore) -> None:
    fill(store)
    first = store.list()[-1].id

    def asked(source: str) -> list[str]:
        rows = collect(source, "sft", store, {"mine": talk("How?", "So.")}, lambda notice: None)
        return [row["messages"][0]["content"] for row in rows]  # type: ignore[union-attr,index,call-overload]

    assert asked("conversations:Places") == ["Where?"]
    assert asked(f"conversations:{first},good one") == ["2 + 2?", "Who?"]
    assert asked("conversations:last") == ["How?"]
    assert asked("conversations:mine") == ["How?"]
    assert len(asked("conversations")) == 7
    with pytest.raises(DataNotFoundError, match=r"There is no conversation 'Place'. Did you mean 'Places'"):
        asked("conversations:Place")
    with pytest.raises(ConfigError, match=r"hold no preferences for dpo\. Use --data feedback"):
        collect("conversations", "dpo", store, {}, lambda notice: None)


def test_the_active_branch_is_learnt_without_a_reply_that_was_stopped(store: ConversationStore) -> None:
    fill(store)
    (row,) = collect("conversations:Places", "sft", store, {}, lambda notice: None)
    assert [message["content"] for message in row["messages"]] == ["Where?", "Here."]  # type: ignore[index,call-overload]


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_collected("feedback")
    assert is_collected("conversations:last")
    assert not is_collected("feedbacks")
    (tmp_path / "feedback").mkdir()
    assert not is_collected("feedback")


def test_a_session_trains_on_what_was_said_and_rated_in_it(tmp_path: Path) -> None:
    session = Session()
    session.load("tiny-random").wait()
    for number in range(2):
        session.ask(f"Say {number}", conversation=f"talk {number}", max_new_tokens=4, seed=number)
        conversation = session.conversation(f"talk {number}")
        conversation.rate(conversation.path()[-1].id, 1 if number else -1)
    options = {"max_steps": 1, "output_dir": str(tmp_path / "out")}
    events = list(session.train("feedback", method="kto", options=options))
    assert [e.text for e in events if isinstance(e, Notice) and e.topic == "feedback"] == ["Feedback: 2 rated replies."]
    assert next(e for e in events if isinstance(e, TrainStarted)).data.rows == 2
    assert isinstance(events[-1], TrainFinished)
    session.close()
