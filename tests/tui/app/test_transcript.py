"""The transcript and what it is made of."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from textual.app import App, ComposeResult

from llmmagic.core.chat.messages import Message
from llmmagic_tui.themes import DARK, LIGHT, Inks
from llmmagic_tui.widgets.context_bar import share_cells
from llmmagic_tui.widgets.transcript import Transcript, WindowState
from llmmagic_tui.widgets.transcript.layout import Stack
from llmmagic_tui.widgets.transcript.markdown import MarkdownDocument
from llmmagic_tui.widgets.transcript.thinking import ReplyText, split_reply

INKS = Inks.of(DARK.to_color_system().generate())


def lines(source: str, width: int = 60) -> list[str]:
    return ["".join(segment.text for segment in line).rstrip() for line in MarkdownDocument(source).lines(width, INKS)]


class Shell(App[None]):
    """A transcript and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.register_theme(DARK)
        self.theme = DARK.name
        self.transcript = Transcript()

    def compose(self) -> ComposeResult:
        yield self.transcript

    def text(self) -> list[str]:
        return [self.transcript.render_line(y).text.rstrip() for y in range(self.transcript.size.height)]


def talk(count: int, words: int = 30) -> list[Message]:
    source = random.Random(7)
    made = []
    for number in range(count):
        role = "user" if number % 2 == 0 else "assistant"
        text = " ".join("word" * source.randint(1, 4) for _ in range(source.randint(1, words)))
        made.append(Message(id=f"{number:06d}", role=role, content=f"message {number}: {text}"))
    return made


def one(_: str) -> tuple[int, int]:
    return (1, 1)


# --- Markdown -------------------------------------------------------------------------------------------------------


def test_markdown_blocks() -> None:
    source = (
        "# Title\n\ntext **bold** `code`\n\n- a\n- b\n  1. x\n\n> quote\n\n| a | b |\n|---|--:|\n| 1 | 22 |\n\n---\n"
    )
    assert lines(source) == [
        "Title", "",
        "text bold code", "",
        "• a", "• b", "  1. x", "",
        "▎ quote", "",
        "a    b", "──────", "1   22", "",
        "─" * 40,
    ]  # fmt: skip


def test_code_is_highlighted_in_a_block_with_its_language() -> None:
    drawn = MarkdownDocument("```python\ndef f(): return 1\n```").lines(40, INKS)
    assert "".join(segment.text for segment in drawn[0]) == " python" + " " * 28 + "copy "
    keyword = next(segment for segment in drawn[1] if segment.text == "def")
    assert keyword.style is not None
    assert keyword.style.color == dict(INKS.syntax)["Token.Keyword"].color
    assert all(sum(segment.cell_length for segment in line) == 40 for line in drawn)


@pytest.mark.parametrize("seed", range(8))
def test_a_stream_in_pieces_draws_what_the_whole_draws(seed: int) -> None:
    source = (
        "# A\n\npara *one*\nline two\n\n```js\nlet x = `1`;\n\n// y\n```\n- i\n\n- j\n  - k\n\n> q\n> r\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\nSetext\n===\n\n1) x\n2) y\n\nend **half"
    )
    pieces = random.Random(seed)
    document, rest = MarkdownDocument(), source
    while rest:
        cut = pieces.randint(1, 9)
        document.append(rest[:cut])
        document.lines(50, INKS)
        rest = rest[cut:]
    assert document.source == source
    whole = MarkdownDocument(source)
    assert document.lines(50, INKS) == whole.lines(50, INKS)


@pytest.mark.parametrize("width", [12, 20, 80, 200])
def test_no_line_is_wider_than_it_may_be(width: int) -> None:
    source = "# long " + "x" * 300 + "\n\n- " + "y" * 100 + "\n\n```\n" + "z" * 300 + "\n```\n\n漢字" * 50
    for line in MarkdownDocument(source).lines(width, INKS):
        assert sum(segment.cell_length for segment in line) <= width


# --- thinking -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "thinking", "answer", "unfinished"),
    [
        ("plain", None, "plain", False),
        ("<think>\na\n</think>\n\nb", "a", "b", False),
        ("<think>\na", "a", "", True),
        ("<thi", None, "", True),
        ("a\n</think>\n\nb", "a", "b", False),
        ("The tag </think> ends it.", None, "The tag </think> ends it.", False),
        ("x <think>y</think>", None, "x <think>y</think>", False),
        ("<think></think>b", None, "b", False),
    ],
)
def test_split_reply(text: str, thinking: str | None, answer: str, unfinished: bool) -> None:
    assert split_reply(text) == (thinking, answer, unfinished)
    grown = ReplyText()
    for character in text:
        grown.append(character)
    assert grown.reply == (thinking, answer, unfinished)


# --- layout ---------------------------------------------------------------------------------------------------------


def test_a_stack_finds_lines() -> None:
    stack = Stack([3, 1, 5])
    assert stack.height == 9
    assert [stack.at(line) for line in (-4, 0, 2, 3, 4, 8, 99)] == [
        (0, 0), (0, 0), (0, 2), (1, 0), (2, 0), (2, 4), (2, 4),
    ]  # fmt: skip
    stack[0] = 10
    stack.append(2)
    assert (stack.top(1), stack.height) == (10, 18)
    with pytest.raises(IndexError):
        Stack().at(0)


@pytest.mark.parametrize(
    ("tokens", "cells", "expected"),
    [
        ([], 10, []),
        ([0, 0], 10, [0, 0]),
        ([1, 1], 10, [5, 5]),
        ([1, 999], 10, [1, 9]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([10, 0, 30], 8, [2, 0, 6]),
    ],
)
def test_a_bar_is_shared_by_size(tokens: list[int], cells: int, expected: list[int]) -> None:
    assert share_cells(tokens, cells) == expected


@pytest.mark.parametrize("seed", range(20))
def test_a_bar_is_always_full(seed: int) -> None:
    source = random.Random(seed)
    tokens = [source.choice([0, 1, 5, 300, 4000]) for _ in range(source.randint(1, 60))] + [1]
    for cells in (1, 7, 40, 111):
        assert sum(share_cells(tokens, cells)) == cells


# --- the widget -----------------------------------------------------------------------------------------------------


async def test_it_opens_at_the_end_and_scrolls_through_everything() -> None:
    messages = talk(120)
    app = Shell()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.transcript
        transcript.show(messages, one)
        await pilot.pause()
        assert any("message 119" in line for line in app.text())
        seen: set[int] = set()
        while transcript.scroll_y > 0:
            seen |= {int(number) for number in re.findall(r"message (\d+):", "\n".join(app.text()))}
            before = app.text()
            transcript.scroll_relative(y=-7, animate=False)
            await pilot.pause()
            if transcript.scroll_y > 0:  # what was at the top is now seven lines lower: nothing jumped
                assert app.text()[7:] == before[:-7]
        seen |= {int(number) for number in re.findall(r"message (\d+):", "\n".join(app.text()))}
        assert seen == set(range(120))


async def test_a_stream_keeps_the_end_in_view_unless_one_reads_above() -> None:
    app = Shell()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.transcript
        transcript.show([*talk(20), Message(id="x", role="assistant", content="")], one)
        transcript.resume_reply("x")
        for number in range(40):
            transcript.stream(f"line {number}\n\n")
        await pilot.pause()
        assert any("line 39" in line for line in app.text())
        transcript.scroll_relative(y=-10, animate=False)
        await pilot.pause()
        before = app.text()
        transcript.stream("one more\n\n" * 5)
        await pilot.pause()
        assert app.text() == before
        transcript.follow()
        await pilot.pause()
        assert any("one more" in line for line in app.text())


async def test_another_width_keeps_the_place() -> None:
    app = Shell()
    async with app.run_test(size=(60, 20)) as pilot:
        transcript = app.transcript
        transcript.show(talk(100), one)
        await pilot.pause()
        transcript.scroll_to(y=200, animate=False)
        await pilot.pause()
        first = transcript._stack.at(int(transcript.scroll_y))[0]
        await pilot.resize_terminal(100, 30)
        await pilot.pause()
        assert transcript._stack.at(int(transcript.scroll_y))[0] == first


async def test_the_rule_and_the_marks() -> None:
    messages = talk(6, words=3)
    app = Shell()
    async with app.run_test(size=(70, 40)) as pilot:
        transcript = app.transcript
        transcript.show(messages, one)
        out, leaving = frozenset(["000000", "000001"]), frozenset(["000002", "000003"])
        transcript.set_window(WindowState(out, leaving, "no longer seen: 2"))
        await pilot.pause()
        text = app.text()
        rule = next(index for index, line in enumerate(text) if "╌╌╌ no longer seen: 2" in line)
        assert "message 1" in "".join(text[:rule])
        assert "message 2" in "".join(text[rule:])
        assert sum("drops with this send" in line for line in text) == 2


async def test_selected_text_is_copied_without_the_marks_at_its_left() -> None:
    app = Shell()
    async with app.run_test(size=(60, 20)) as pilot:
        app.transcript.show([Message(id="a", role="user", content="first line\nsecond line")], one)
        await pilot.pause()
        await pilot.mouse_down(app.transcript, offset=(3, 1))
        await pilot.hover(app.transcript, offset=(9, 2))
        await pilot.mouse_up(app.transcript, offset=(9, 2))
        await pilot.pause()
        assert app.screen.get_selected_text() == "first line\nsecond"


async def test_colours_follow_the_theme() -> None:
    app = Shell()
    async with app.run_test(size=(60, 20)) as pilot:
        app.register_theme(LIGHT)
        app.transcript.show([Message(id="a", role="assistant", content="# Heading")], one)
        await pilot.pause()
        dark = app.transcript.render_line(1)
        app.theme = LIGHT.name
        await pilot.pause()
        light = app.transcript.render_line(1)
        assert dark.text == light.text
        assert [segment.style for segment in dark] != [segment.style for segment in light]


async def test_a_new_value_of_a_message_is_drawn() -> None:
    app = Shell()
    async with app.run_test(size=(60, 20)) as pilot:
        message = Message(id="a", role="assistant", content="old")
        app.transcript.show([message], one)
        await pilot.pause()
        app.transcript.show([replace(message, content="new", rating=1)], one)
        await pilot.pause()
        assert "new" in "".join(app.text())
        assert "rated good" in "".join(app.text())
