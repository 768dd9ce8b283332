"""Small tokenizers of every kind that matters for cutting prompts, and chat templates of every temper."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like SmolLM2's: brings a system prompt of its own.
DEFAULT_SYSTEM = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like Llama-2's: the system prompt inside the first user message, texts stripped, strict alternation.
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}"
    "{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system != false %}"
    "{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# Like Mistral's older ones: no system prompt at all, strict alternation.
NO_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# Reasoning model: thinking stays only in replies after the last question.
DROPS_THINKING = (
    "{% set ns = namespace(last=-1) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' and '</think>' in content and loop.index0 < ns.last %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HAND_WRITTEN = {
    "chatml": CHATML,
    "default-system": DEFAULT_SYSTEM,
    "llama-2": LLAMA_2,
    "no-system": NO_SYSTEM,
    "drops-thinking": DROPS_THINKING,
}
_SPECIAL = re.compile(r"<\|[a-zA-Z_0-9]+\|>|<[a-z]+_of_[a-z]+>|<\uff5c[^\uff5c]+\uff5c>|\[gMASK\]|<sop>|<bos>")
_WORDS = (
    "the cat sat on a mat, and what is the tallest mountain of the world? Antworten Sie kurz: größer, süß. 東京 1234 "
)


def _trl_folder() -> Path:
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "chat_templates"


@cache
def templates() -> dict[str, str]:
    """Our own ones and the real ones that TRL ships."""
    real = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_trl_folder().glob("*.jinja"))}
    return {**HAND_WRITTEN, **real}


@cache
def special_texts() -> tuple[str, ...]:
    """What the templates use as special tokens."""
    found = {text for source in templates().values() for text in _SPECIAL.findall(source)}
    return ("<s>", "</s>", *sorted(found - {"<s>", "</s>"}))


def _specials(backend: Tokenizer) -> Tokenizer:
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special_texts()])
    return backend


def _bytes() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _specials(backend)


def _byte_bpe() -> Tokenizer:
    """Like GPT-2's and Llama-3's: byte-level with merges, a prefix space, and a special token that eats spaces."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([_WORDS] * 20, trainer)
    _specials(backend)
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True, normalized=False)])
    return backend


def _spaces_as_letters(*, legacy: bool) -> Tokenizer:
    """Like Llama-2's: spaces are letters, and a first one is added: to each part (legacy) or once to the text."""
    letters = sorted(set(_WORDS.replace(" ", "▁")) | {"▁"})
    pieces = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *letters]
    pairs = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("a", "t"), ("▁", "w"), ("i", "n"), ("▁", "▁")]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *(a + b for a, b in pairs)]))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=pairs, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _specials(backend)


@cache
def backends() -> dict[str, Tokenizer]:
    """Every kind of tokenizer, by name."""
    return {
        "bytes": _bytes(),
        "byte-bpe": _byte_bpe(),
        "spaces-legacy": _spaces_as_letters(legacy=True),
        "spaces-first": _spaces_as_letters(legacy=False),
    }


@cache
def tokenizer(kind: str, template: str) -> Any:
    """A Transformers tokenizer of a kind with a template of `templates`."""
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=backends()[kind], bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    made.chat_template = templates()[template]
    return made
