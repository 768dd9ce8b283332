"""One panel: what it shows, and what its commands do. It knows nothing of widgets: others carry its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from typing_extensions import assert_never

from llmmagic.core.chat.tree import Conversation
from llmmagic.core.config import GenerationConfig
from llmmagic.core.errors import (
    ConfigError,
    ContextOverflowError,
    ConversationNotFoundError,
    LLMMagicError,
    SessionBusyError,
)
from llmmagic.core.events import ChatEvent, WindowReport
from llmmagic.magics.panel import commands, updates
from llmmagic.magics.panel.drawing import draw_entries, draw_settings, draw_talk, draw_window, read_settings
from llmmagic.magics.panel.replies import Reply
from llmmagic.magics.panel.updates import Answer, MessageView, Path, Sampling, Status, Talks, Update, Window

if TYPE_CHECKING:
    from llmmagic.core.chat.messages import Message
    from llmmagic.core.operation import Operation
    from llmmagic.magics.panel.hub import PanelHub

_AT_ONCE = 40  # messages that are sent together; the newest ones first, so that there is something to see


class ChatPanel:
    """A conversation that is shown and talked to.

    Attributes:
        name: By which the session reaches the conversation.
        generation: How replies are sampled.
    """

    def __init__(
        self,
        hub: PanelHub,
        name: str,
        generation: GenerationConfig,
        *,
        send: Callable[[dict[str, Any]], None],
        keep: Callable[[Conversation], None],
    ) -> None:
        """Show a conversation; it is made if there is none of that name.

        Args:
            hub: Of the session.
            name: Of the conversation.
            generation: How replies are sampled.
            send: Carries a message to the browser; called from any thread, one call at a time.
            keep: Told when something was said: for those who read the notebook later.
        """
        self.name = name
        self.generation = generation
        self._hub = hub
        self._session = hub.session
        self._carry = send
        self._keep = keep
        self._draft = ""
        self._counting = False
        self._drawn = 0  # how often it is on screen, as far as is known: a browser that is closed does not say so
        self._asleep = False
        self._report: WindowReport | None = None
        self._window = Window()
        self._sent: dict[str, MessageView] = {}
        self._sent_path: Path | None = None
        self._sent_status: Status | None = None
        _ = self.talk  # made now, if it has to be
        hub.add(self)

    @property
    def talk(self) -> Conversation:
        """The conversation; another one when a cell has started it anew."""
        return self._session.conversations.get(self.name) or self._find()

    def _find(self) -> Conversation:
        try:
            return self._session.conversation(self.name)
        except ConversationNotFoundError:
            return self._session.new_conversation(self.name)

    # --- to the browser -------------------------------------------------------------------------------------------

    def send(self, update: Update) -> None:
        """Send something."""
        with self._hub.lock:
            if not self._asleep:
                self._carry(updates.to_json(update))

    def snapshot(self) -> list[dict[str, Any]]:
        """Everything there is to see now, as messages: for a browser that has just drawn the panel."""
        live = self._live()
        views = self._views(self.talk.path(), live)
        path = Path(draw_talk(self.name, self.talk), tuple(each.id for each in views), tuple(views), live)
        shown: list[Update] = [path, Sampling(draw_settings(self.generation)), self._window, self._status()]
        if live and self._hub.reply is not None:
            shown.append(self._hub.reply.so_far)
        return [updates.to_json(each) for each in shown]

    def refresh(self, *, count: bool = True) -> None:
        """Send what is not as it was.

        Args:
            count: Count the window, too.
        """
        if self._asleep:
            return
        with self._hub.lock:
            live, path = self._live(), self.talk.path()
            talk, ids = draw_talk(self.name, self.talk), tuple(message.id for message in path)
            if self._sent_path is not None and self._sent_path.talk.id != talk.id:
                self._sent.clear()
            changed = [view for view in self._views(path, live) if self._sent.get(view.id) != view]
            self._sent.update((view.id, view) for view in changed)
            # The newest first, and as many at a time as are drawn without a hitch.
            last = len(changed) - _AT_ONCE
            for start in range(last, -_AT_ONCE, -_AT_ONCE):
                self._send_path(Path(talk, ids, tuple(changed[max(start, 0) : start + _AT_ONCE]), live))
            if not changed:
                self._send_path(Path(talk, ids, (), live))
            self.send_status()
        if count:
            self._count_soon()

    def _send_path(self, path: Path) -> None:
        if path.changed or path != self._sent_path:
            self._sent_path = Path(path.talk, path.ids, (), path.live)
            self.send(path)

    def _views(self, path: list[Message], live: str) -> list[MessageView]:
        talk = self.talk
        return [self._hub.drawn.message(talk, message, live=message.id == live) for message in path]

    def _live(self) -> str:
        reply = self._hub.reply
        return reply.id if reply is not None and reply.talk_id == self.talk.id else ""

    def send_status(self) -> None:
        """Send what is going on, if that has changed."""
        with self._hub.lock:
            status = self._status()
            if status != self._sent_status:
                self._sent_status = status
                self.send(status)

    def _status(self) -> Status:
        hub, info, busy = self._hub, self._session.info, self._session.busy
        model = "" if info is None else f"{info.model_id}+{info.adapter}" if info.adapter else info.model_id
        if hub.closed:
            return Status("closed", "llmmagic was unloaded. Load it, and run this cell again.", "", False, False)
        if hub.reply is not None and hub.reply.talk_id == self.talk.id:
            return Status(hub.reply.activity, hub.reply.detail, model, False, True)
        if busy is not None:
            text = f"A {busy} operation is running on this session. What you write stays here until it has ended."
            return Status("busy", text, model, False, False)
        if info is None:
            text = "No model is loaded: %llm_load loads one. What you write stays here."
            return Status("none", text, "", False, False)
        return Status("ready", hub.speed, model, True, False)

    def keep(self) -> None:
        """Write down what was said, for those who read the notebook later."""
        self._keep(self.talk)

    # --- the window -----------------------------------------------------------------------------------------------

    def show_window(self, report: WindowReport, *, sent: bool = False) -> None:
        """Send the figures of a window."""
        self._report = report
        self._send_window(draw_window(report, sent=sent))

    def _send_window(self, window: Window) -> None:
        if window != self._window:
            self._window = window
            self.send(window)

    def _count_soon(self) -> None:
        if not self._counting:  # what waits already will count what is typed by then
            self._counting = True
            self._hub.soon(self._count)

    def _count(self) -> None:
        self._counting = False
        name, draft = self.name, self._draft
        try:
            report = self._session.window(name, draft=draft, generation=self.generation)
        except ContextOverflowError as err:
            message = f"Does not fit: {err.message}"
            shown = self._report
            self._send_window(Window(error=message) if shown is None else draw_window(shown, sent=True, error=message))
        except LLMMagicError as err:
            self._send_window(Window(error="" if self._session.info is None else err.message))
        else:
            if name == self.name:
                self.show_window(report)

    # --- commands -------------------------------------------------------------------------------------------------

    def handle(self, data: object) -> None:
        """Carry out what the browser asks for, and answer it."""
        ref = commands.ref_of(data)

        def answer(error: str) -> None:
            self.send(Answer(ref, error))

        try:
            if self._do(commands.parse_command(data), answer):
                answer("")
        except LLMMagicError as err:
            answer(str(err))
            self.send_status()

    def _do(self, command: commands.Command, answer: Callable[[str], None]) -> bool:
        """Carry out a command.

        Returns:
            Whether it is done; else it is answered later.
        """
        name, session = self.name, self._session
        generation = self.generation
        match command:
            case commands.Hello():
                self._hello()
            case commands.Bye():
                self._drawn -= 1
                self._asleep = self._drawn <= 0
            case commands.Send(text):

                def sent(error: str) -> None:
                    if not error:
                        self._draft = ""
                    answer(error)

                return self._reply(lambda: session.chat(text, conversation=name, generation=generation), sent)
            case commands.Edit(id, text):
                return self._reply(lambda: session.edit(id, text, conversation=name, generation=generation), answer)
            case commands.Regenerate(id):
                return self._reply(lambda: session.regenerate(id, conversation=name, generation=generation), answer)
            case commands.Continue(id):
                return self._reply(lambda: session.continue_reply(id, conversation=name, generation=generation), answer)
            case commands.Stop():
                if self._hub.reply is not None and self._hub.reply.talk_id == self.talk.id:
                    self._hub.reply.stop()
            case commands.Draft(text):
                self._draft = text
                self._count_soon()
            case commands.Settings(values):
                self.generation = read_settings(values)
                self.send(Sampling(draw_settings(self.generation)))
                self._count_soon()
            case commands.New():
                self._show(session.new_conversation().id)
            case commands.Open(id):
                session.conversation(id)
                self._show(session.name_of(id))
            case commands.List():
                past, here = session.past_conversations(limit=100), list(session.conversations.values())
                self.send(Talks(draw_entries(past, here, self.talk.id)))
            case _:
                self._change(command)
        return True

    def _change(
        self,
        command: commands.Pin | commands.Rate | commands.Better | commands.Branch | commands.System,
    ) -> None:
        """Change the conversation, and tell all panels that show it."""
        talk = self.talk
        match command:
            case commands.Pin(id):
                change = talk.unpin if talk[id].pinned else talk.pin
                change(id)
            case commands.Rate(id, rating):
                talk.rate(id, None if talk[id].rating == rating else rating)
            case commands.Better(id, text):
                talk.better(id, text if text.strip() else None)
            case commands.Branch(id, step):
                self._refuse_while_writing("go to another branch")
                family = [each.id for each in talk.siblings(id)]
                talk.select(family[(family.index(id) + step) % len(family)])
            case commands.System(text):
                self._refuse_while_writing("change the system prompt")
                talk.system = text.strip() or None
            case _:
                assert_never(command)
        self._hub.changed(talk.id)
        for panel in self._hub.showing(talk.id):
            panel.keep()

    def _refuse_while_writing(self, doing: str) -> None:
        if self._session.busy == "chat":
            raise SessionBusyError(f"Cannot {doing} while a reply is being written.", hint="Stop it first.")

    def _reply(self, start: Callable[[], Operation[ChatEvent]], answer: Callable[[str], None]) -> bool:
        if self._hub.closed:
            raise ConfigError("llmmagic was unloaded.", hint="Load it, and run this cell again.")
        with self._hub.lock:  # nobody says "busy" in between
            Reply(self, self._hub, start(), answer)
        return False

    def _hello(self) -> None:
        with self._hub.lock:
            self._drawn += 1
            self._asleep = False
            self._sent.clear()
            self._sent_path = self._sent_status = None
            self.send(Sampling(draw_settings(self.generation)))
            self.send(self._window)
            self.refresh()
            if self._live() and self._hub.reply is not None:
                self.send(self._hub.reply.so_far)

    def _show(self, name: str) -> None:
        self.name = name
        self._report, self._window = None, Window()
        self.refresh()
        self.keep()
