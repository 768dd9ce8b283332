"""Text from models, files and clipboards shows as text and changes nothing outside its message."""

from __future__ import annotations

import re

import pytest
from textual import events
from textual.widgets import TextArea

from llmmagic.core.chat.messages import Message
from llmmagic.core.chat.store import ConversationStore
from llmmagic.core.chat.tree import Conversation
from llmmagic_tui.screens.editor import EditorScreen
from tests.tui.app.helpers import Chat, chat_app
from tests.tui.app.test_transcript import Shell, one

HOSTILE = {
    "colours": "\x1b[31mred\x1b[0m \x1b[2J\x1b[H cleared",
    "title": "\x1b]0;owned\x07 and \x1b]2;owned\x1b\\ end",
    "clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "hyperlink": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "cut off": "\x1b]0;never ended",
    "eight bit": "\x9b31mred\x9c \x90q\x9c",
    "device": "\x1bP+q544e\x1b\\ \x1b^x\x1b\\ \x1b_y\x1b\\",
    "bidi": "user\u202etxt.exe \u2066isolate\u2069",
    "markup": "[bold red]loud[/bold red] [link=http://evil.example]x[/link] [@click=app.quit]bye[/] [/] [not closed",
    "html": "<script>alert(1)</script> <b>bold</b> &lt; <!-- gone? -->",
    "links": "[a](javascript:alert(1)) [b](file:///etc/passwd) ![c](http://evil.example/x.png) <http://evil.example>",
    "fence": "```python\nprint('never closed'",
    "emphasis": "**half *open _and ~~more `code",
    "tables": "| a | b |\n|---|\n| 1 | 2 | 3 |\n|---|---|\n" + "|" * 200,
    "nesting": "> " * 300 + "deep\n" + "- " * 200 + "deep too",
    "brackets": "[" * 3000 + "](" * 500,
    "long line": "x" * 20_000,
    "carriage returns": "visible\rhidden\r\nnext\x08\x08\x08",
    "nulls": "a\x00b\x07c\x7fd",
    "surrogate": "lone \ud800 surrogate",
    "separators": "a\u2028b\u2029c\u0085d\x0be\x0cf",
    "references": "[x]: http://evil.example\n\n[x]",
    "think": "<think>never closed",
    "zalgo": "Z" + "\u0310\u0334" * 60,
}
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("role", ["user", "assistant"])
@pytest.mark.parametrize("name", HOSTILE)
async def test_nothing_but_text_is_drawn_and_the_neighbours_stay(name: str, role: str) -> None:
    before = Message(id="1", role="user", content="the one before")
    after = Message(id="3", role="user", content="the one after")
    app = Shell()
    async with app.run_test(size=(80, 30)) as pilot:
        transcript = app.transcript
        transcript.show([before, Message(id="2", role=role, content=HOSTILE[name]), after], one)  # type: ignore[arg-type]
        await pilot.pause()
        text = app.text()
        assert any("the one after" in line for line in text)
        for y in range(transcript.virtual_size.height):
            strip = transcript._line(y)
            assert strip.cell_length <= 80
            for segment in strip:
                assert not _UNSAFE.search(segment.text), repr(segment.text)
                # No terminal hyperlink, and nothing that Textual would run on a click.
                assert segment.style is None or segment.style.link is None
                assert segment.style is None or "@click" not in segment.style.meta
        transcript.scroll_home(animate=False)
        await pilot.pause()
        assert any("the one before" in line for line in app.text())


@pytest.mark.parametrize("name", ["html", "markup", "references", "nesting", "fence", "think"])
async def test_its_words_can_be_read(name: str) -> None:
    words = {
        "html": ["<script>", "<b>bold</b>", "<!--"],
        "markup": ["[bold red]loud[/bold red]", "[@click=app.quit]bye[/]", "[not closed"],
        "references": ["[x]: http://evil.example"],
        "nesting": ["deep", "deep too"],
        "fence": ["print('never closed'"],
        "think": ["thinking · 2 words"],
    }
    app = Shell()
    async with app.run_test(size=(200, 90)) as pilot:
        app.transcript.show([Message(id="1", role="assistant", content=HOSTILE[name])], one)
        await pilot.pause()
        text = "\n".join(app.text())
        for each in words[name]:
            assert each in text


async def test_a_stream_of_it_leaves_the_message_before_as_it_was() -> None:
    app = Shell()
    async with app.run_test(size=(80, 60)) as pilot:
        transcript = app.transcript
        shown = [Message(id="1", role="user", content="before"), Message(id="2", role="assistant", content="")]
        transcript.show(shown, one)
        transcript.resume_reply("2")
        for text in HOSTILE.values():
            if len(text) < 500:
                for start in range(0, len(text), 3):
                    transcript.stream(text[start : start + 3])
        await pilot.pause()
        transcript.scroll_home(animate=False)
        await pilot.pause()
        assert app.text()[1] == "▎ before"
        for y in range(transcript.virtual_size.height):
            assert not any(_UNSAFE.search(segment.text) for segment in transcript._line(y))


async def test_titles_notices_and_the_detail_screen_show_it_as_text(store: ConversationStore) -> None:
    conversation = Conversation(journal=store, system="[red]sys\x1b[31m[/red]")
    conversation.add("user", "\x1b]0;owned\x07[bold]title[/bold]\u202e")
    conversation.add("assistant", HOSTILE["markup"], finish_reason="stop")
    async with chat_app(conversation=conversation.id, model="[bold]no[/bold]\x1b[31m", load=False) as chat:
        await chat.until(lambda: chat.notices and chat.messages)
        await chat.until(lambda: chat.screen.library.entries)
        assert "[bold]title[/bold]" in chat.screen.active.title.render().plain
        for strip in chat.app.screen._compositor.render_strips():
            for segment in strip:
                assert not _UNSAFE.search(segment.text), repr(segment.text)


async def test_lists_searches_figures_notices_and_editors_show_it_as_text(store: ConversationStore) -> None:
    hostile = "\x1b]0;owned\x07[bold]needle[/bold]\u202e\x1b[2J [@click=app.quit]bye[/] ```"
    conversation = Conversation(journal=store, title=f"[red]{hostile}[/red]")
    conversation.add("user", hostile)
    conversation.add("assistant", f"<think>{hostile}</think>{hostile}", finish_reason="stop")

    def check(chat: Chat, *words: str) -> None:
        text = ""
        for strip in chat.app.screen._compositor.render_strips():
            text += strip.text + "\n"
            for segment in strip:
                assert not _UNSAFE.search(segment.text), repr(segment.text)
                assert segment.style is None or "app.quit" not in str(segment.style.meta.get("@click", ""))
        for each in words:
            assert each in text

    async with chat_app(conversation=conversation.id, size=(140, 40)) as chat:
        await chat.until(lambda: chat.screen.library.entries)
        check(chat, "[red][bold]needle")  # the list and the title above the conversation
        await chat.press("f3", *"needle")
        await chat.until(lambda: chat.screen.library.words and chat.screen.library.entries[0].excerpt)
        check(chat, "[bold]needle[/bold]")
        await chat.press("escape", "f2")
        await chat.settled()
        check(chat, "[bold]needle[/bold]", "[@click=app.quit]bye[/]")
        await chat.press("escape")
        chat.screen.say(hostile)
        await chat.pilot.pause()
        check(chat, "[bold]needle[/bold]")
        chat.screen.active.transcript.focus()
        await chat.press("home", "e")
        assert isinstance(chat.app.screen, EditorScreen)
        check(chat, "[bold]needle[/bold]")
        chat.app.post_message(events.Paste(f"\npasted {hostile}"))
        await chat.until(lambda: "pasted" in chat.app.screen.query_one("#editor", TextArea).text)
        check(chat, "pasted [bold]needle[/bold]")
        assert chat.app.screen.query_one("#editor", TextArea).text.count("pasted") == 1
        await chat.press("escape", "escape", "up")
        assert "needle" in chat.screen.composer.text
        check(chat, "[bold]needle[/bold]")
