"""Markdown of a model: formulas, code, and text that grows."""

from __future__ import annotations

import random

import pytest

from llmmagic.magics.markdown import markdown_html, settled_length
from llmmagic.magics.panel.growing import GrowingMarkdown
from tests.magics.test_safety import ATTACKS, check

TEXT = """# Title

para **bold** 😀 more

```python
x = "<b>"

y = 1
```

| a | b |
|---|---|
| 1 | 2 |

1. one

2. two

> quoted
lazily

\\(a_1 * b_2 * c\\) end"""


@pytest.mark.parametrize(
    ("text", "html"),
    [
        (r"so \(x_1 \cdot y_1\) holds", r"<p>so \(x_1 \cdot y_1\) holds</p>"),
        ("\\[\na * b * c < d\n\\]", "<p>\\[\na * b * c &lt; d\n\\]</p>"),
        ("$$a_1 b_1$$ *then*", "<p>$$a_1 b_1$$ <em>then</em></p>"),
        (r"\(never closed", "<p>(never closed</p>"),
        (r"\[text\](https://example.org)", "<p>[text](https://example.org)</p>"),
        (r"\* no list, \_ no emphasis", "<p>* no list, _ no emphasis</p>"),
    ],
)
def test_formulas_keep_their_signs(text: str, html: str) -> None:
    assert markdown_html(text).strip() == html


def test_code_is_coloured_where_the_language_is_known() -> None:
    html = markdown_html("```python\nreturn '<b>'\n```", highlight=True)
    assert '<span class="llmmagic-k">return</span>' in html
    assert "&lt;b&gt;" in html
    assert markdown_html("```klingon\na < b\n```", highlight=True) == (
        '<pre><code class="language-klingon">a &lt; b\n</code></pre>\n'
    )


def test_all_but_the_last_block_is_settled() -> None:
    assert settled_length("one\ntwo") == 0
    assert settled_length("one\n\ntwo\n") == len("one\n\n")
    assert settled_length("1. a\n\n2") == 0, "it may become the second item"
    assert settled_length("a\x0b\u2028b\n\nc\n") == len("a\x0b\u2028b\n\n"), "only line feeds end a line"


@pytest.mark.parametrize("seed", range(40))
def test_a_text_that_grows_ends_as_it_would_be_rendered_at_once(seed: int) -> None:
    pieces, reply, page, tail = random.Random(seed), GrowingMarkdown(), "", ""
    position = 0
    while position < len(TEXT):
        length = pieces.randint(1, 12)
        growth = reply.append(TEXT[position : position + length])
        position += length
        if growth.settled:
            page, tail = page + growth.settled, ""
        # as JavaScript slices: in units of UTF-16
        tail = tail.encode("utf-16-le")[: 2 * growth.cut].decode("utf-16-le") + growth.add
    assert page + tail == markdown_html(TEXT, highlight=True)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_growing_text_does_nothing_on_the_way(attack: str) -> None:
    reply, page, tail = GrowingMarkdown(), "", ""
    for character in f"{attack}\n\n{attack}\n\n```python\n{attack}":
        growth = reply.append(character)
        page += growth.settled
        tail = ("" if growth.settled else tail)[: growth.cut] + growth.add
        check(page + tail)
