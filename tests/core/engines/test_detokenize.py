"""Text comes in whole characters, with the right spaces, and never shows a stop string."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmmagic.core.engines.detokenize import (
    ByteLevelDetokenizer,
    StopStrings,
    WindowDetokenizer,
    make_detokenizer,
)

# emoji, a family of four joined ones, combining marks, right-to-left, CJK
TRICKY = "Héllo 👩‍👩‍👧‍👦 नमस्ते مرحبا 你好 🏳️‍🌈 e\u0301 <b>\u202e\u200f done\r\n\ttab  two spaces"


def feed_all(detokenizer: Any, ids: list[int]) -> list[str]:
    return [detokenizer.feed(i) for i in ids]


def llama2_like() -> PreTrainedTokenizerFast:
    """SentencePiece pieces with byte fallback and the decoder of Llama-2's tokenizer.json."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁▁", "▁Hello", "▁world", "▁the", "wor", "ld", "!", "é", *"Helowrdth"]
    backend = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def test_byte_tokens_become_whole_characters(tokenizer: Any) -> None:
    detokenizer = make_detokenizer(tokenizer)
    assert isinstance(detokenizer, ByteLevelDetokenizer)
    assert feed_all(detokenizer, tokenizer.encode("a👍é")) == ["a", "", "", "", "👍", "", "é"]


@given(st.text(max_size=60))
def test_any_text_comes_back_and_no_piece_is_broken(tokenizer: Any, text: str) -> None:
    parts = feed_all(make_detokenizer(tokenizer), tokenizer.encode(text))
    assert "".join(parts) == text.encode("utf-8", "replace").decode()
    assert all("\ufffd" not in part for part in parts) or "\ufffd" in text


@given(st.lists(st.integers(0, 258), max_size=60))
def test_any_tokens_give_what_the_tokenizer_gives(tokenizer: Any, ids: list[int]) -> None:
    text = "".join(feed_all(make_detokenizer(tokenizer), ids))
    whole = tokenizer.decode(ids, skip_special_tokens=True)
    # An unfinished character at the end is the one difference: it is left out, not shown as a broken one.
    assert text == whole or text + "\ufffd" == whole


def test_special_tokens_have_no_text_but_reasoning_marks_stay(tokenizer: Any) -> None:
    ours = copy.deepcopy(tokenizer)
    ours.add_tokens([AddedToken("<think>", special=True), AddedToken("</think>", special=False)])
    ids = ours.encode("<|im_start|><think>hm</think> ok<|im_end|>")
    assert "".join(feed_all(make_detokenizer(ours), ids)) == "<think>hm</think> ok"


@pytest.mark.parametrize("text", ["Hello world", "the Hello  world!", "Hé👍 🎉🎉 ld", TRICKY, "👍", "  two"])
def test_sentencepiece_spaces_and_byte_fallback(text: str) -> None:
    tokenizer = llama2_like()
    detokenizer = make_detokenizer(tokenizer)
    assert isinstance(detokenizer, WindowDetokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    parts = feed_all(detokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids)
    assert all("\ufffd" not in part for part in parts)


def test_sentencepiece_words_keep_their_spaces_piece_by_piece() -> None:
    tokenizer = llama2_like()
    ids = tokenizer.convert_tokens_to_ids(["▁Hello", "▁world", "</s>", "▁the", "!"])
    assert feed_all(make_detokenizer(tokenizer), ids) == ["Hello", " world", "", " the", "!"]


def test_bytes_that_are_no_text_do_not_hold_back_the_rest() -> None:
    tokenizer = llama2_like()
    bad = tokenizer.convert_tokens_to_ids(["<0xFF>"])
    parts = feed_all(make_detokenizer(tokenizer), bad * 40 + tokenizer.convert_tokens_to_ids(["▁Hello"]))
    assert "".join(parts).endswith("\ufffd Hello")
    assert next(i for i, part in enumerate(parts) if part) <= 8


def test_the_cost_of_a_token_does_not_grow_with_the_reply() -> None:
    tokenizer = llama2_like()
    ids = tokenizer.convert_tokens_to_ids(["▁Hello", "▁world", "!", "▁the"]) * 1500

    def seconds(count: int) -> float:
        detokenizer = make_detokenizer(tokenizer)
        start = time.perf_counter()
        feed_all(detokenizer, ids[:count])
        return time.perf_counter() - start

    seconds(100)
    # Ten times the tokens: ten times the work, were it quadratic a hundred times. Wide margin for a busy machine.
    assert min(seconds(6000) for _ in range(3)) < 40 * min(seconds(600) for _ in range(3))


@pytest.mark.parametrize(
    ("stops", "parts", "shown", "found"),
    [
        ((), ["ab", "c"], "abc", False),
        (("END",), ["so E", "N", "D more"], "so ", True),
        (("END",), ["so E", "N", "T"], "so ENT", False),
        (("END",), ["so EN"], "so EN", False),
        (("aab",), ["a", "a", "a", "b", "c"], "a", True),
        (("\n\n", "User:"), ["one\n", "\ntwo"], "one", True),
        (("\n\n", "User:"), ["Us", "er", ": hi"], "", True),
        (("bc", "b"), ["abc"], "a", True),
        (("👍",), ["ok ", "👍", "!"], "ok ", True),
    ],
)
def test_stop_strings(stops: tuple[str, ...], parts: list[str], shown: str, found: bool) -> None:
    finder = StopStrings(stops)
    text = "".join(finder.feed(part) for part in parts)
    text += finder.flush()
    assert (text, finder.found) == (shown, found)


def test_what_may_become_a_stop_string_is_held_back() -> None:
    finder = StopStrings(("###",))
    assert [finder.feed(part) for part in ["a#", "#", "b", "#", "##"]] == ["a", "", "##b", "", ""]
    assert finder.found
    assert finder.flush() == ""


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_stop_strings_do_not_depend_on_token_borders(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    finder = StopStrings(stops)
    shown = ""
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        shown += finder.feed(text[start:end])
        if finder.found:
            break
    shown += finder.flush()
    assert not any(stop in shown for stop in stops)
    assert text.startswith(shown)
    assert finder.found == any(stop in text for stop in stops)
