"""Cutting a text at special tokens must not change a single token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmmagic.core.chat.encoding import FastEncoder
from tests.core.chat.tokenizers_for_tests import backends, special_texts

KINDS = sorted(backends())
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(special_texts()),
        st.sampled_from(["<mask>", " ", "  ", "\n", "the cat", " the", "größer", "東京", "<|im_", "end|>"]),
        st.text(max_size=8),
    ),
    max_size=12,
).map("".join)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@settings(max_examples=150, deadline=None)
def test_parts_of_a_text_encode_to_the_ids_of_the_whole(kind: str, text: str) -> None:
    backend = backends()[kind]
    encoder = FastEncoder(backend)
    assert encoder.encode(text) == backend.encode(text, add_special_tokens=False).ids
    pieces = encoder.pieces(text)
    assert [piece.text for piece in pieces] == [text[p.begin : p.begin + len(p.text)] for p in pieces]
    assert "".join(piece.text for piece in pieces) == text


def test_text_is_cut_before_special_tokens_but_not_before_one_that_eats_spaces() -> None:
    encoder = FastEncoder(backends()["byte-bpe"])
    text = "the <|im_end|>cat <mask> sat"
    assert [piece.text for piece in encoder.pieces(text)] == ["the ", "<|im_end|>cat <mask> sat"]


def test_a_backend_that_training_left_truncating_still_encodes_everything() -> None:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(backends()["bytes"].to_str())
    encoder = FastEncoder(backend)
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    assert len(encoder.encode("the cat")) == 7
    assert backend.truncation["max_length"] == 2  # the training's setting is not ours to change
