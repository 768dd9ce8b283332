"""Help, palette, settings, themes, split view, keys, small screens."""

from __future__ import annotations

from textual.command import CommandPalette
from textual.widgets import Input, Static

from llmmagic_tui.bindings import GROUPS, Keymap
from llmmagic_tui.screens.help import HelpScreen
from llmmagic_tui.screens.model import ModelScreen
from tests.tui.app.helpers import chat_app


async def test_help_lists_every_key() -> None:
    async with chat_app(keys={"pin": "ctrl+g"}, size=(120, 200)) as chat:
        await chat.press("f1")
        assert isinstance(chat.app.screen, HelpScreen)
        text = "\n".join(
            "".join(segment.text for segment in strip)
            for widget in chat.app.screen.query(Static)
            for strip in widget.render_lines(widget.size.region)
        )
        for group in GROUPS:
            for binding in group.bindings:
                assert binding.tooltip in text
        assert "^g" in text
        await chat.press("f1")
        assert not isinstance(chat.app.screen, HelpScreen)


async def test_the_palette_reaches_every_action() -> None:
    async with chat_app() as chat:
        await chat.press("ctrl+p")
        assert isinstance(chat.app.screen, CommandPalette)
        await chat.press(*"side by side")
        await chat.until(lambda: chat.app.screen.query_one("CommandList").option_count)  # type: ignore[attr-defined]
        await chat.press("enter")
        await chat.until(lambda: chat.screen.split)


async def test_keys_can_be_changed_and_unknown_ones_are_named() -> None:
    async with chat_app(keys={"new_conversation": "ctrl+g", "new_conversatoin": "f12"}) as chat:
        assert any("Did you mean 'new_conversation'?" in notice for notice in chat.notices)
        await chat.send("Hello")
        await chat.press("ctrl+n")
        assert len(chat.messages) == 2
        await chat.press("ctrl+g")
        assert chat.messages == []


def test_ids_are_unique() -> None:
    assert len(set(Keymap.IDS)) == len(Keymap.IDS)


async def test_split_view_sends_one_prompt_to_both() -> None:
    async with chat_app(size=(140, 36)) as chat:
        screen = chat.screen
        await chat.send("Left only")
        await chat.press("f4")
        assert screen.active is screen.panes[1]
        await chat.press("f5")
        assert screen.to_both
        chat.screen.composer.text = "To both"
        await chat.settled()
        # Each half counts the draft in a window of its own.
        assert all(any(s.kind == "draft" for s in pane.report.segments) for pane in screen.panes)
        await chat.press("enter")
        await chat.until(lambda: screen.running is None and len(screen.panes[1].transcript.messages) == 2)
        await chat.settled()
        contents = [[m.content for m in pane.transcript.messages if m.role == "user"] for pane in screen.panes]
        assert contents == [["Left only", "To both"], ["To both"]]
        assert screen.panes[0].report.prompt_tokens > screen.panes[1].report.prompt_tokens
        await chat.press("f5", "f6")
        assert screen.active is screen.panes[0]
        await chat.press("f4")
        assert not screen.split


async def test_settings_are_checked() -> None:
    async with chat_app() as chat:
        await chat.press("f8")
        field = chat.app.screen.query_one("#temperature", Input)
        field.value = "-1"
        await chat.press("ctrl+s")
        assert "temperature must be >= 0" in str(chat.app.screen.query_one("#problem", Static).render())
        field.value = "0.5"
        chat.app.screen.query_one("#max_new_tokens", Input).value = "64"
        await chat.press("ctrl+s")
        await chat.settled()
        assert chat.screen.backend.generation.temperature == 0.5
        assert chat.screen.active.report.reserve_tokens == 64


async def test_another_model_can_be_loaded(tiny_folder: object) -> None:
    async with chat_app() as chat:
        await chat.press("f9")
        assert isinstance(chat.app.screen, ModelScreen)
        chat.app.screen.query_one("#model", Input).value = str(tiny_folder)
        await chat.press("enter")
        await chat.until(lambda: chat.screen.status.status.info.model_id == str(tiny_folder))
        await chat.settled()


async def test_themes_switch_and_an_unknown_one_is_named() -> None:
    async with chat_app(theme="llmchat-drak") as chat:
        assert any("llmchat-drak" in notice for notice in chat.notices)
        assert chat.app.current_theme.dark
        before = chat.screen.active.transcript._inks
        await chat.press("ctrl+t")
        assert not chat.app.current_theme.dark
        assert chat.screen.active.transcript._inks != before


async def test_on_a_small_screen_the_list_lies_over_the_chat() -> None:
    async with chat_app(size=(80, 24)) as chat:
        assert not chat.screen.library.display
        await chat.press("f3")
        assert chat.screen.library.display
        assert chat.screen.active.size.width == 80
        await chat.press("escape")
        assert not chat.screen.library.display
        assert chat.screen.composer.has_focus


async def test_page_keys_scroll_the_transcript_while_writing() -> None:
    async with chat_app(size=(80, 24)) as chat:
        for _ in range(3):
            await chat.send("line\n" * 12)
        transcript = chat.screen.active.transcript
        bottom = transcript.scroll_y
        await chat.press("pageup")
        assert transcript.scroll_y < bottom
        await chat.press("pagedown")
        assert transcript.scroll_y == transcript.max_scroll_y
