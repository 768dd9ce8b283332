"""Nothing that a model, a file or a name says can do anything in a notebook or a terminal."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmmagic.magics.html import card_html, reply_html
from llmmagic.magics.markdown import markdown_html
from llmmagic.magics.text import card_text, reply_text
from llmmagic.magics.views.card import Bar, Card, Curve, Note
from llmmagic.magics.views.reply import ReplyCard

TAGS = set(
    "a blockquote br code div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul "
    "circle details img line polyline summary svg text".split()
)
ATTRIBUTES = set(
    "href src alt color target rel class style start role xmlns viewbox points fill stroke opacity cx cy r x y "
    "x1 x2 y1 y2 text-anchor font-family font-size stroke-width stroke-dasharray align".split()
)
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt:alert(1))",
    "[x](  javascript:alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x) <javascript:alert(1)>",
    "[logout](/hub/logout)",
    "![pixel](https://evil.example/pixel.png)",
    '![x](https://e.example/"onload=alert(1))',
    "```<script>\nalert(1)\n```",
    '```x" onclick="alert(1)\n```',
    "<svg/onload=alert(1)>",
    "</div></td></table><iframe src=//evil>",
    "<!-- <style>*{display:none}</style>",
    "\x1b]0;title\x07\u202etxt",
]


class Strict(HTMLParser):
    """Fails on everything that is not known to be harmless."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES or name.startswith("aria-"), (tag, name)
            if tag == "img":
                assert name != "src" or (value or "").startswith("data:image/png;base64,"), value
            if name == "href":
                assert re.match(r"(https?://|mailto:)", value or ""), value
            if name == "style":
                assert "url(" not in (value or "")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def check(html: str) -> None:
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", html)


@pytest.mark.parametrize("attack", ATTACKS)
def test_untrusted_text_stays_text(attack: str) -> None:
    check(markdown_html(attack))
    check(reply_html(ReplyCard(attack, running=False, footer=attack, notes=(Note(attack),))))
    for status in ("running", "done"):
        check(card_html(Card(attack, status, curve=Curve(((1, 2.0), (2, 1.0)), ((0, 3.0),), 2))))
    card = Card(
        attack,
        "running",
        bars=(Bar(attack, 0.5, attack),),
        facts=((attack, attack),),
        notes=(Note(attack, "warning"),),
        details=((attack, attack),),
        curve=Curve(((1, 2.0), (2, 1.0)), ((0, 3.0),), 2),
    )
    check(card_html(card))
    for text in (card_text(card), reply_text(ReplyCard(attack, running=False, footer=attack))):
        assert "\x1b" not in text
        assert "\u202e" not in text


@given(st.lists(st.sampled_from([*ATTACKS, "[", "](", ")", "`", "\n", "<", "|-|\n", "> ", "http://a"]), max_size=8))
def test_any_mixture_stays_text(parts: list[str]) -> None:
    check(markdown_html("".join(parts)))


def test_markdown_is_rendered() -> None:
    html = markdown_html("# Title\n\n**bold** `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[ok](https://example.org)")
    assert "<h1>Title</h1>" in html
    assert "<strong>bold</strong> <code>code</code>" in html
    assert "<td>2</td>" in html
    assert '<a href="https://example.org" target="_blank" rel="noopener noreferrer nofollow">ok</a>' in html


def test_raw_html_is_shown() -> None:
    assert "&lt;b&gt;hi&lt;/b&gt;" in markdown_html("<b>hi</b>")
