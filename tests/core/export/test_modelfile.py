"""Ollama's template is the model's own, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.export.modelfile import find_pieces, modelfile
from llmmagic.core.models.tiny import make_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is gout?"},
    {"role": "assistant", "content": "Crystals in a joint."},
    {"role": "user", "content": "Where?\nAnd why?"},
]
# In the manner of SmolLM2: a system prompt that the template adds by itself.
DEFAULT_SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are Tiny.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BEGINS_ONCE = "{{ bos_token }}" + (
    "{% for message in messages %}{{ '[' + message['role'] + ']' + message['content'] + '[/]' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
)


def template_of(source: str | None) -> ChatTemplate:
    tokenizer: Any = make_tokenizer()
    if source is not None:
        tokenizer.chat_template = source
    return ChatTemplate.from_tokenizer(tokenizer)


@pytest.mark.parametrize("source", [None, DEFAULT_SYSTEM, BEGINS_ONCE])
@pytest.mark.parametrize("talk", [TALK, TALK[1:], TALK[1:2]])
def test_the_pieces_make_the_same_prompt(source: str | None, talk: list[dict[str, str]]) -> None:
    template = template_of(source)
    pieces = find_pieces(template)
    assert pieces is not None
    assert pieces.render(talk) == template.render(talk)


def test_a_modelfile_holds_template_default_system_and_ends() -> None:
    template = template_of(DEFAULT_SYSTEM)
    text = modelfile("m.gguf", template, pieces=find_pieces(template), adds_bos=False, context_window=32_768)
    lines = text.splitlines()
    assert lines[0] == "FROM ./m.gguf"
    assert 'SYSTEM """You are Tiny."""' in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert "PARAMETER num_ctx 8192" in lines
    assert '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n{{ else if' in text
    assert text.count("You are Tiny.") == 1


def test_the_first_token_is_not_written_twice() -> None:
    template = template_of(BEGINS_ONCE)
    pieces, bos = find_pieces(template), template.special_tokens["bos_token"]
    with_bos = modelfile("m.gguf", template, pieces=pieces, adds_bos=False, context_window=512)
    without = modelfile("m.gguf", template, pieces=pieces, adds_bos=True, context_window=512)
    assert f'TEMPLATE """{bos}{{{{ range .Messages }}}}' in with_bos
    assert 'TEMPLATE """{{ range .Messages }}' in without


def test_a_template_that_is_no_row_of_messages_is_left_to_ollama(llama2_folder: Path) -> None:
    from transformers import AutoTokenizer

    template = ChatTemplate.from_tokenizer(AutoTokenizer.from_pretrained(llama2_folder))
    assert find_pieces(template) is None
    text = modelfile("m.gguf", template, pieces=None, adds_bos=True, context_window=4096)
    assert "TEMPLATE" not in text
    assert 'PARAMETER stop "</s>"' in text
