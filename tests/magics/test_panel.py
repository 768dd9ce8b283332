"""The chat panel without a browser: commands in, messages out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic.core.config import GenerationConfig
from llmmagic.core.errors import ConfigError
from llmmagic.core.sanitize import strip_controls
from llmmagic.core.session import Session
from llmmagic.magics.panel.commands import VERSION
from llmmagic.magics.panel.drawing import Drawn, read_settings
from llmmagic.magics.panel.hub import PanelHub
from llmmagic.magics.panel.panel import ChatPanel
from llmmagic.magics.panel.transcript import transcript_bundle
from tests.magics.test_safety import ATTACKS, check

CONTEXT = 300
WAIT_S = 60.0


class Browser:
    """What the JavaScript knows, kept as it keeps it."""

    def __init__(self, hub: PanelHub, name: str = "default", **settings: Any) -> None:
        self.talk: dict[str, Any] = {}
        self.views: dict[str, dict[str, Any]] = {}
        self.ids: list[str] = []
        self.window: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self.sampling: dict[str, str] = {}
        self.entries: list[dict[str, Any]] = []
        self.streamed = 0
        self.page = self.tail = ""
        self.answers: dict[int, str] = {}
        self.kept: list[list[str]] = []
        self._ref = 0
        generation = GenerationConfig(**{"max_new_tokens": 40, "temperature": 1.0, "seed": 1, **settings})
        self.panel = ChatPanel(hub, name, generation, send=self._take, keep=self._keep)
        self.ask("hello")

    def _keep(self, talk: Conversation) -> None:
        self.kept.append([message.content for message in talk.path()])

    def _take(self, message: dict[str, Any]) -> None:
        message = json.loads(json.dumps(message))
        assert message["v"] == VERSION
        match message["type"]:
            case "path":
                self.talk, self.ids = message["talk"], message["ids"]
                self.views.update((view["id"], view) for view in message["changed"])
                if message["live"] and message["live"] in {view["id"] for view in message["changed"]}:
                    self.page = self.tail = ""
            case "stream":
                self.streamed += 1
                self.tail = self.tail if not message["settled"] else ""
                self.page += message["settled"]
                kept = self.tail.encode("utf-16-le")[: 2 * message["cut"]].decode("utf-16-le")
                self.tail = kept + message["add"]
            case "window":
                self.window = message
            case "status":
                self.status = message
            case "sampling":
                self.sampling = {each["name"]: each["value"] for each in message["settings"]}
            case "talks":
                self.entries = message["entries"]
            case "answer":
                self.answers[message["ref"]] = message["error"]

    def ask(self, type: str, **values: Any) -> str:
        """Send a command and wait for its answer."""
        self._ref += 1
        self.panel.handle({"v": VERSION, "ref": self._ref, "type": type, **values})
        self.until(lambda: self._ref in self.answers)
        return self.answers[self._ref]

    def until(self, holds: Callable[[], Any]) -> None:
        end = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end, (self.status, self.window, self.answers)
            time.sleep(0.005)

    def settled(self) -> None:
        self.until(lambda: self.status["activity"] in ("ready", "none"))

    def say(self, text: str) -> None:
        assert self.ask("send", text=text) == ""
        self.settled()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [self.views[id] for id in self.ids]

    @property
    def contents(self) -> list[str]:
        return [view["text"] for view in self.messages]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with ConversationStore(tmp_path_factory.mktemp("store") / "conversations.db") as store:
        session = Session(store=store)
        session.load("tiny-random", max_context=CONTEXT).wait()
        yield session
        session.close()


@pytest.fixture
def hub(session: Session) -> Iterator[PanelHub]:
    hub = PanelHub(session)
    yield hub
    hub.close()


@pytest.fixture
def browser(hub: PanelHub, request: pytest.FixtureRequest) -> Browser:
    return Browser(hub, request.node.name)


def test_a_reply_streams_and_ends_as_the_conversation_has_it(browser: Browser, session: Session) -> None:
    browser.say("Hello there")
    question, reply = session.conversation(browser.panel.name).path()
    assert browser.contents == ["Hello there", strip_controls(reply.content)]
    assert browser.streamed >= 1
    assert browser.messages[1]["html"]
    assert (browser.messages[0]["html"], browser.messages[0]["name"]) == ("", "You")
    assert browser.messages[1]["name"] == "tiny-random"
    assert browser.messages[1]["note"] == "ended at the token limit"
    assert "continue" in browser.messages[1]["actions"]
    assert "tokens/s · first token after" in browser.status["text"]
    assert browser.talk["title"] == browser.panel.name, "the title it was given"
    browser.until(lambda: browser.kept)
    assert browser.kept[-1] == [question.content, reply.content]


def test_stop_ends_a_reply_and_continue_goes_on(hub: PanelHub) -> None:
    browser = Browser(hub, "stopped", max_new_tokens=140, temperature=1.0, seed=3)
    assert browser.ask("send", text="go on") == ""
    browser.until(lambda: browser.streamed)
    assert browser.status["can_stop"]
    assert browser.ask("stop") == ""
    browser.settled()
    first = browser.messages[1]
    if first["note"] == "stopped before its end":  # a tiny model may have been faster than the button
        assert browser.ask("continue", id=first["id"]) == ""
        browser.settled()
        assert browser.messages[1]["id"] == first["id"]
        assert browser.messages[1]["text"].startswith(first["text"])
    assert len(browser.ids) == 2


def test_the_window_counts_the_draft_and_says_what_sending_drops(hub: PanelHub) -> None:
    browser = Browser(hub, "window")
    browser.ask("draft", text="Hello")
    browser.until(lambda: any(kind == "draft" for kind, _, _ in browser.window["legend"]))
    assert sum(tokens for _, tokens, _ in browser.window["segments"]) == CONTEXT
    forecast = ""
    for number in range(8):
        text = f"Tell me more, part {number}"
        browser.ask("draft", text=text)
        draft = len(text) + 13  # bytes are tokens here; more or less what the template puts around it
        browser.until(lambda least=draft - 13: any(k == "draft" and n >= least for k, _, n in browser.window["legend"]))
        forecast, leaving = browser.window["forecast"], browser.window["leaving"]
        browser.say(text)
        if forecast:
            break
    assert forecast.startswith("Sending drops ")
    assert forecast.endswith(" tokens).")
    assert leaving
    browser.until(lambda: set(leaving) <= set(browser.window["out"]))
    assert browser.window["cut"] == f"the model no longer sees {len(browser.window['out'])} messages above"


def test_what_does_not_fit_is_refused_and_the_draft_stays(browser: Browser) -> None:
    long = "x" * 2 * CONTEXT
    browser.ask("draft", text=long)
    browser.until(lambda: browser.window["error"].startswith("Does not fit: "))
    assert "do not fit into the context window of 300" in browser.ask("send", text=long)
    browser.settled()
    assert browser.ids == []
    assert browser.ask("send", text="  ").startswith("The prompt is empty.")


def test_edit_and_again_make_branches_that_arrows_go_between(browser: Browser) -> None:
    browser.say("one")
    first = browser.messages[0]
    assert browser.ask("edit", id=first["id"], text="two") == ""
    browser.settled()
    assert browser.contents[0] == "two"
    assert browser.messages[0]["branch"] == [2, 2]
    assert browser.ask("regenerate", id=browser.ids[1]) == ""
    browser.settled()
    assert browser.messages[1]["branch"] == [2, 2]
    assert browser.ask("branch", id=browser.ids[0], step=1) == ""
    assert browser.contents[0] == "one"
    assert browser.messages[0]["branch"] == [1, 2]
    assert browser.ask("edit", id="nobody", text="x").startswith("No message 'nobody'")


def test_pin_rate_better_and_the_system_prompt(browser: Browser, session: Session) -> None:
    browser.say("rate this")
    talk = session.conversation(browser.panel.name)
    question, reply = browser.ids
    browser.ask("pin", id=question)
    assert browser.messages[0]["pinned"]
    browser.until(lambda: "pinned" in [kind for kind, _, _ in browser.window["legend"]])
    browser.ask("pin", id=question)
    assert not talk[question].pinned
    browser.ask("rate", id=reply, rating=1)
    assert (browser.messages[1]["rating"], talk[reply].rating) == (1, 1)
    browser.ask("rate", id=reply, rating=1)
    assert (browser.messages[1]["rating"], talk[reply].rating) == (0, None)
    assert browser.ask("rate", id=reply, rating=5).startswith("rating must be 1, -1 or None")
    browser.ask("better", id=reply, text="A real word.")
    assert browser.messages[1]["better"] == talk[reply].better == "A real word."
    browser.ask("system", text="Be brief.")
    assert browser.talk["system"] == talk.system == "Be brief."
    browser.ask("system", text=" ")
    assert talk.system is None


def test_settings_are_checked_and_change_the_window(browser: Browser) -> None:
    assert browser.sampling["max_new_tokens"] == "40"
    values = {**browser.sampling, "max_new_tokens": "60", "temperature": "0.5", "seed": ""}
    assert browser.ask("settings", values=values) == ""
    assert browser.panel.generation == GenerationConfig(max_new_tokens=60, temperature=0.5)
    browser.until(lambda: ["reserve", "reply", 60] in browser.window["legend"])
    assert browser.ask("settings", values={"temperature": "hot"}) == "temperature must be a number, got 'hot'."
    assert browser.ask("settings", values={"top_k": "1.5"}) == "top_k must be a whole number, got '1.5'."
    assert "must be >= 0" in browser.ask("settings", values={"temperature": "-1"})
    assert browser.panel.generation.temperature == 0.5
    with pytest.raises(ConfigError, match="Unknown setting"):
        read_settings({"temprature": "1"})


def test_another_panel_a_cell_and_the_store_see_the_same(hub: PanelHub, session: Session) -> None:
    one, two, other = Browser(hub, "shared"), Browser(hub, "shared"), Browser(hub, "elsewhere")
    one.say("from a panel")
    two.until(lambda: two.contents == one.contents)
    assert two.streamed == one.streamed
    session.ask("from a cell", conversation="shared", max_new_tokens=8)
    for each in (one, two):
        each.until(lambda each=each: len(each.ids) == 4 and each.status["activity"] == "ready")
        assert each.contents[2] == "from a cell"
    assert other.ids == []
    assert other.streamed == 0
    other.ask("list")
    entry = next(entry for entry in other.entries if entry["id"] == one.talk["id"])
    assert (entry["title"], entry["shown"]) == ("shared", False)
    assert other.ask("open", id=entry["id"]) == ""
    assert other.panel.name == "shared"
    assert other.contents == one.contents
    assert other.ask("new") == ""
    assert other.ids == []
    assert other.ask("open", id="nobody").startswith("No conversation 'nobody'")
    # a cell starts it anew: the panel follows the name
    session.ask("again", conversation="shared", new=True, max_new_tokens=8)
    one.until(lambda: one.contents[:1] == ["again"])


def test_it_says_so_when_the_session_is_busy_or_without_a_model(tmp_path: Path) -> None:
    session = Session()
    hub = PanelHub(session)
    browser = Browser(hub, max_new_tokens=1500, temperature=1.0, seed=3)
    assert browser.status["activity"] == "none"
    assert "%llm_load loads one" in browser.status["text"]
    assert browser.ask("send", text="hi").startswith("Chatting needs a model")
    session.load("tiny-random").wait()
    browser.until(lambda: browser.status["activity"] == "ready")
    with session._exclusive("train"):
        browser.until(lambda: browser.status["activity"] == "busy")
        assert browser.status["text"].startswith("A train operation is running on this session.")
        assert not browser.status["can_send"]
        assert browser.ask("send", text="hi").startswith("Cannot chat now: a train operation is running")
    browser.until(lambda: browser.status["can_send"])
    assert browser.ids == []
    assert browser.ask("send", text="hi") == ""
    assert browser.ask("send", text="me too").startswith("Cannot chat now: a chat operation is running")
    assert browser.ask("branch", id=browser.ids[0], step=1).startswith("Cannot go to another branch")
    browser.ask("stop")
    browser.settled()
    session.unload()
    browser.until(lambda: browser.status["activity"] == "none")
    session.load("tiny-random").wait()
    browser.until(lambda: browser.status["can_send"])
    browser.say("and again")
    assert browser.contents[2] == "and again"
    session.close()
    hub.close()
    assert browser.status["activity"] == "closed"
    assert browser.ask("send", text="hi").startswith("llmmagic was unloaded.")


def test_a_browser_that_comes_late_gets_everything(browser: Browser) -> None:
    browser.say("early")
    views, ids = browser.views, browser.ids
    browser.views, browser.ids = {}, []
    browser.ask("hello")
    assert (browser.views, browser.ids) == (views, ids)
    first = {message["type"]: message for message in browser.panel.snapshot()}
    assert [view["text"] for view in first["path"]["changed"]] == browser.contents
    assert first["status"]["activity"] == "ready"


def test_a_panel_that_is_no_longer_drawn_is_sent_nothing(browser: Browser, session: Session) -> None:
    sent: list[dict[str, Any]] = []
    browser.panel._carry = sent.append
    browser.panel.handle({"v": 1, "ref": 9, "type": "bye"})
    session.ask("from a cell", conversation=browser.panel.name, max_new_tokens=4)
    browser.panel.refresh()
    assert sent == []
    browser.panel.handle({"v": 1, "ref": 10, "type": "hello"})
    (path,) = [message for message in sent if message["type"] == "path"]
    assert path["changed"][0]["text"] == "from a cell"


def test_only_what_has_changed_is_sent(browser: Browser, session: Session) -> None:
    talk = session.conversation(browser.panel.name)
    for number in range(150):
        talk.add("user" if number % 2 == 0 else "assistant", f"message {number}")
    sent: list[dict[str, Any]] = []
    browser.panel._carry = sent.append
    browser.panel.refresh(count=False)
    parts = [len(message["changed"]) for message in sent if message["type"] == "path"]
    assert parts == [40, 40, 40, 30]
    assert [view["text"] for view in sent[0]["changed"]] == [f"message {n}" for n in range(110, 150)]
    sent.clear()
    browser.panel.handle({"v": 1, "ref": 1, "type": "pin", "id": talk.path()[7].id})
    assert [len(message["changed"]) for message in sent if message["type"] == "path"] == [1]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("hello", "another version"),
        ({"type": "hello"}, "another version"),
        ({"v": 2, "type": "hello"}, "another version"),
        ({"v": 1, "type": "sned"}, "No command 'sned'. Did you mean 'send'?"),
        ({"v": 1, "type": "send"}, "The command 'send' needs text, got 'None'."),
        ({"v": 1, "type": "send", "text": ["x"]}, "needs text"),
        ({"v": 1, "type": "rate", "id": "a", "rating": True}, "needs rating"),
        ({"v": 1, "type": "settings", "values": {"seed": 1}}, "needs values"),
        ({"v": 1, "type": "send", "text": "x" * 2_000_001}, "needs text"),
    ],
)
def test_what_is_no_command_is_refused(browser: Browser, data: object, error: str) -> None:
    browser.panel.handle(data)
    assert error in browser.answers[0]


def test_what_a_model_writes_is_harmless_in_the_panel_and_in_the_copy() -> None:
    talk = Conversation(title=ATTACKS[0])
    for attack in ATTACKS:
        talk.add("user", attack)
        talk.add("assistant", attack, model_id=attack)
    drawn = Drawn()
    for message in talk.path():
        check(drawn.message(talk, message, live=False).html)
    bundle = transcript_bundle(talk, "copy")
    check(bundle["text/html"])
    assert "\x1b" not in bundle["text/plain"]
    assert "alert(1)" in bundle["text/plain"]


def test_the_copy_is_no_archive() -> None:
    talk = Conversation()
    for number in range(130):
        talk.add("user" if number % 2 == 0 else "assistant", f"message {number}\n" + "x" * 30_000)
    bundle = transcript_bundle(talk, "copy")
    assert "30 earlier messages are not shown." in bundle["text/plain"]
    assert "message 29" not in bundle["text/plain"]
    assert "message 30" in bundle["text/plain"]
    assert len(bundle["text/html"]) < 2_200_000
