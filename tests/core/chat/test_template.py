"""`ChatTemplate` gives what Transformers gives, and says what a template cannot do."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.errors import ChatTemplateError
from tests.core.chat.tokenizers_for_tests import backends, templates, tokenizer

TALK = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\nFour."},
    {"role": "user", "content": " And 3 + 3? "},
]
CONTENTS = st.text(
    alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("\n {}%<>|'\"")), min_size=1, max_size=20
) | st.sampled_from(["<|im_end|>", "<think>a</think>b", "{{ messages }}", "</s>", "[INST]"])


def make(template: str, kind: str = "bytes") -> ChatTemplate:
    return ChatTemplate.from_tokenizer(tokenizer(kind, template))


@pytest.mark.parametrize("name", sorted(templates()))
@pytest.mark.parametrize("prompt", [True, False])
def test_ids_are_those_of_transformers(name: str, prompt: bool) -> None:
    reference, template = tokenizer("byte-bpe", name), make(name, "byte-bpe")
    given = template.as_given(TALK)
    expected = reference.apply_chat_template(given, add_generation_prompt=prompt, tokenize=True, return_dict=False)
    assert template.encode(TALK, add_generation_prompt=prompt) == expected


@pytest.mark.parametrize("name", ["chatml", "default-system", "llama-2", "qwen3", "llama3", "gptoss"])
@given(contents=st.lists(CONTENTS, min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_ids_are_those_of_transformers_whatever_is_said(name: str, contents: list[str]) -> None:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    reference, template = tokenizer("spaces-first", name), make(name, "spaces-first")
    expected = reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert template.encode(messages) == expected


@pytest.mark.slow
def test_ids_of_the_demo_model_are_those_of_transformers(demo_folder: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(demo_folder)
    template = ChatTemplate.from_tokenizer(reference)
    assert template.silences_default
    chance = random.Random(0)
    words = [
        "Hello",
        "  two",
        "\n",
        "<|im_end|>",
        "<|im_start|>",
        " größer",
        "東京",
        "😀",
        "1234",
        "don't",
        "`x`",
        "!!!",
        " ",
    ]
    for _ in range(500):
        contents = ["".join(chance.choices(words, k=chance.randint(1, 9))) for _ in range(chance.randint(1, 6))]
        messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
        expected = reference.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert template.encode(messages) == expected


def test_no_start_token_is_doubled() -> None:
    template = make("llama-2", "spaces-legacy")
    ids = template.encode([{"role": "user", "content": "the cat"}])
    assert template.decode(ids).count("<s>") == 1


def test_the_templates_own_refusal_is_the_message() -> None:
    with pytest.raises(ChatTemplateError, match="Conversation roles must alternate"):
        make("llama-2").encode([{"role": "assistant", "content": "Hello"}])


def test_a_broken_template_is_refused_with_its_line() -> None:
    with pytest.raises(ChatTemplateError, match=r"\(line 2\)"):
        ChatTemplate.from_files(backends()["bytes"].to_str().encode(), "{% for x in messages %}\n{% oops %}", {})


def test_a_template_cannot_reach_python() -> None:
    for source in (
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__ }}{{ messages.append(1) }}",
        "{% set ns = namespace(__init__=1) %}",
    ):
        template = ChatTemplate.from_files(backends()["bytes"].to_str().encode(), source, {})
        with pytest.raises(ChatTemplateError):
            template.render(TALK)


@pytest.mark.parametrize(
    ("name", "merges", "alternates", "silences"),
    [
        ("chatml", False, False, False),
        ("default-system", False, False, True),
        ("llama-2", False, True, False),
        ("no-system", True, True, False),
        ("gemma", True, True, False),
        ("qwen2_5", False, False, True),
        ("llama3", False, False, False),
        ("idefics3", False, False, False),
    ],
)
def test_what_a_template_does_is_found_out(name: str, merges: bool, alternates: bool, silences: bool) -> None:
    template = make(name)
    assert (template.merges_system, template.alternates, template.silences_default) == (merges, alternates, silences)
    assert [notice.topic for notice in template.notices] == (["system-prompt"] if merges else [])


def test_templates_of_models_that_see_pictures_get_parts() -> None:
    template = make("idefics3")
    assert template.takes_parts
    assert "What is 2 + 2?" in template.render(TALK)
    assert not make("chatml").takes_parts


def test_a_model_without_a_template_gets_a_plain_dialogue_and_says_so() -> None:
    template = ChatTemplate.from_files(
        backends()["bytes"].to_str().encode(), None, {"bos_token": "<s>", "eos_token": "</s>"}
    )
    assert template.plain
    assert template.render([{"role": "system", "content": "Be brief."}, TALK[0]]) == (
        "Be brief.\n\nUser: What is 2 + 2?\nAssistant:"
    )
    assert template.stop == ("\nUser:", "\nSystem:", "\nTool:")
    assert [(notice.topic, notice.level) for notice in template.notices] == [("chat-template", "warning")]


def test_end_tokens_are_the_tokenizers_and_the_templates() -> None:
    template = make("chatml")
    assert template.decode(template.eos_token_ids) == "</s><|im_end|>"


def test_a_payload_crosses_a_process_border_and_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    template = make("default-system", "byte-bpe")
    (tmp_path / "payload.json").write_text(json.dumps(template.to_payload()), encoding="utf-8")
    code = (
        "import json, sys\n"
        "from llmmagic.core.chat.store import ConversationStore\n"
        "from llmmagic.core.chat.template import ChatTemplate\n"
        "from llmmagic.core.chat.window import ContextWindow\n"
        f"payload = json.load(open({str(tmp_path / 'payload.json')!r}, encoding='utf-8'))\n"
        "template = ChatTemplate.from_payload(payload)\n"
        "ids = template.encode([{'role': 'user', 'content': 'the cat'}])\n"
        "heavy = [name for name in ('torch', 'transformers', 'numpy') if name in sys.modules]\n"
        "print(json.dumps([ids, heavy]))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert json.loads(result.stdout) == [template.encode([{"role": "user", "content": "the cat"}]), []]


class Letters:
    """A tokenizer without a backend: one token a letter."""

    chat_template = templates()["chatml"]
    special_tokens_map: dict[str, Any] = {}  # noqa: RUF012 - as the library's class has it

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(char) for char in text]

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


def test_a_tokenizer_without_a_backend_works_but_stays_in_its_process() -> None:
    template = ChatTemplate.from_tokenizer(Letters())
    assert template.decode(template.encode([TALK[0]])) == (
        "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    )
    with pytest.raises(ChatTemplateError, match="another process"):
        template.to_payload()


def test_a_tokenizer_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ChatTemplateError, match=r"tokenizer\.json cannot be read"):
        ChatTemplate.from_files(tmp_path / "tokenizer.json", None, {})
    with pytest.raises(ChatTemplateError, match="cannot be read"):
        ChatTemplate.from_files(tmp_path / "missing.json", None, {})


def test_several_templates_need_a_default() -> None:
    several = Letters()
    several.chat_template = {"rag": "x", "default": templates()["chatml"]}  # type: ignore[assignment]
    assert ChatTemplate.from_tokenizer(several).render([TALK[0]]).startswith("<|im_start|>user")
    several.chat_template = {"rag": "x"}  # type: ignore[assignment]
    with pytest.raises(ChatTemplateError, match="none of them is the default"):
        ChatTemplate.from_tokenizer(several)
