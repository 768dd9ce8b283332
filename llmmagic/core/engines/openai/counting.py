"""Which template counts a server's prompts: exactly, where its tokenizer can be had; else an estimate.

Exact is, first of all, the tokenizer of the model itself, where its files are on this machine; then a server that tells
its template and encodes texts for us (llama-server's ``/props`` and ``/tokenize``), or makes prompts for us (vLLM's).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from typing_extensions import override

from llmmagic.core.chat.encoding import Encoder
from llmmagic.core.chat.estimate import EstimatingEncoder, estimating_template
from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.engines.openai.client import ServerClient
from llmmagic.core.engines.openai.errors import TryAgain
from llmmagic.core.engines.openai.facts import ServerFacts
from llmmagic.core.engines.openai.vllm import VllmEncoder, VllmTemplate
from llmmagic.core.errors import ChatTemplateError, LLMMagicError
from llmmagic.core.events import Choice

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_LIKE_SPECIAL = re.compile(r"<[^<>\s{}]{1,40}>|\[/?[A-Z_]{2,20}\]")
_MOST_SPECIAL = 16
_REST_S = 2.0  # how long a server that did not answer is left alone
_PROBE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2 + 2?\n\nThanks: é 😀!"},
    {"role": "assistant", "content": "It is **4**."},
    {"role": "user", "content": "  And 3 + 3?"},
]


def choose_template(client: ServerClient, facts: ServerFacts) -> tuple[ChatTemplate, Choice]:
    """Find the best way to count.

    Args:
        client: Of the server.
        facts: About it.

    Returns:
        The template, and why it is this one.
    """
    for name in filter(None, (facts.root, facts.model)):
        folder = _folder_of(name, local=client.address.local)
        if folder is not None and (template := _from_folder(folder)) is not None:
            return template, Choice("token counts", "exact", f"the tokenizer of {name} is on this machine")
    if facts.kind == "llama.cpp" and (template := _from_llama_cpp(client, facts)) is not None:
        return template, Choice("token counts", "exact", "the server counts with its own tokenizer")
    if facts.kind == "vLLM" and (template := _from_vllm(client, facts)) is not None:
        return template, Choice("token counts", "exact", "the server counts with its own tokenizer")
    reason = "the tokenizer is not on this machine, and the server has no way to ask; corrected after each reply"
    return estimating_template(), Choice("token counts", "about", reason)


# --- files on this machine ---------------------------------------------------------------------------------------


def _folder_of(name: str, *, local: bool) -> Path | None:
    """Where the files of a model are: its folder, or its copy in the Hub's cache."""
    folder = Path(name).expanduser()
    # Another machine's folder may have the same name as one of ours.
    if local and folder.is_absolute():
        return folder if folder.is_dir() else None
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "tokenizer.json")
    return Path(file).parent if isinstance(file, str) else None


def _from_folder(folder: Path) -> ChatTemplate | None:
    """A template of files alone; ``None`` where they are not all that is needed."""
    texts = {name: _read(folder / name) for name in _FILES}
    if texts["tokenizer.json"] is None:
        return None
    config = _json(texts["tokenizer_config.json"])
    template = texts["chat_template.jinja"] or config.get("chat_template")
    if isinstance(template, list):  # the form of several templates
        template = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}.get(
            "default"
        )
    if not isinstance(template, str):
        return None
    try:
        special = {**_json(texts["special_tokens_map.json"]), **config}
        names = {name: value for name, value in special.items() if name in ("bos_token", "eos_token", "pad_token")}
        return ChatTemplate.from_files(texts["tokenizer.json"].encode(), template, names)
    except ChatTemplateError:  # broken files here say nothing about the server
        return None


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _json(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


# --- vLLM --------------------------------------------------------------------------------------------------------


def _from_vllm(client: ServerClient, facts: ServerFacts) -> ChatTemplate | None:
    """What the server makes of messages, if that survives being text in between."""
    encoder = VllmEncoder(client, facts.model)
    template = VllmTemplate(encoder)
    try:
        ids = template.encode(_PROBE[1:])
        return template if ids and tuple(ids) == encoder.encode_anew(template.render(_PROBE[1:])) else None
    except LLMMagicError:  # started without these paths, or a proxy keeps them back
        return None


# --- llama-server ------------------------------------------------------------------------------------------------


def _from_llama_cpp(client: ServerClient, facts: ServerFacts) -> ChatTemplate | None:
    """The server's own template, if it makes the same prompts here as there."""
    if facts.chat_template is None:
        return None
    encoder = LlamaServerEncoder(client)
    try:
        template = ChatTemplate(encoder, facts.chat_template, facts.special_tokens or {})
        encoder.find_special(facts.chat_template)
        probes = [_PROBE[1:]] if template.merges_system else [_PROBE, _PROBE[1:]]
        same = all(template.render(probe) == _applied(client, probe) for probe in probes)
        whole = template.render(probes[0])
        same = same and encoder.encode(whole) == list(encoder.ask(whole)[0])
    except ChatTemplateError:
        return None
    except (LLMMagicError, TryAgain):
        return None
    return template if same and encoder.exact else None


def _applied(client: ServerClient, messages: Sequence[Mapping[str, str]]) -> str | None:
    """The prompt that the server makes of messages."""
    told = client.probe("//apply-template", {"messages": list(messages)})
    return told.get("prompt") if isinstance(told, dict) else None


class LlamaServerEncoder(Encoder):
    """Encodes by asking llama-server. While that does not answer, it estimates, and says so."""

    def __init__(self, client: ServerClient) -> None:
        """Remember whom to ask.

        Args:
            client: Of the server.
        """
        self._client = client
        self._meanwhile = EstimatingEncoder()
        self._silent_since: float | None = None
        super().__init__()

    @property
    @override
    def exact(self) -> bool:
        return self._silent_since is None

    def find_special(self, chat_template: str) -> None:
        """Find out at which tokens of a template a prompt may be cut, so that not all of it is sent for every letter.

        Args:
            chat_template: What may be special tokens stands in it.

        Raises:
            LLMMagicError: The server does not answer.
            TryAgain: Likewise.
        """
        special = []
        for text in list(dict.fromkeys(_LIKE_SPECIAL.findall(chat_template)))[:_MOST_SPECIAL]:
            alone, _ = self.ask(text)
            amid, _ = self.ask(f"a{text}b")
            if len(alone) == 1 and amid == (*self.ask("a")[0], *alone, *self.ask("b")[0]):
                special.append(text)
        if special:
            self.special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))

    def ask(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Let the server encode a text.

        Returns:
            Ids (T,), and where in the text each token begins, in characters (T,).

        Raises:
            LLMMagicError: It does not answer.
            TryAgain: Likewise.
        """
        body = {"content": text, "add_special": False, "parse_special": True, "with_pieces": True}
        told = self._client.ask("POST", "//tokenize", body)
        try:
            tokens = told["tokens"]
            ids = tuple(int(token["id"]) for token in tokens)
            sizes = [_size(token["piece"]) for token in tokens]
        except (TypeError, KeyError, ValueError) as err:
            raise self._client.speech.nonsense("/tokenize is no list of tokens") from err
        return ids, tuple(_characters(text, [0, *accumulate(sizes)][:-1]))

    @override
    def _encode(self, text: str) -> tuple[int, ...]:
        return self._asked(text)[0]

    @override
    def _locate(self, text: str) -> tuple[int, ...]:
        return self._asked(text)[1]

    def _asked(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if not text:
            return (), ()
        if self._silent_since is None or time.monotonic() - self._silent_since > _REST_S:
            try:
                answer = self.ask(text)
            except (LLMMagicError, TryAgain):
                self._silent_since = time.monotonic()
            else:
                if self._silent_since is not None:
                    self._silent_since = None
                    self._forget()  # what was estimated meanwhile
                return answer
        return self._meanwhile._encode(text), self._meanwhile._locate(text)

    @override
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        told = self._client.probe("//detokenize", {"tokens": list(ids)})
        return str(told.get("content", "")) if isinstance(told, dict) else ""


def _size(piece: object) -> int:
    """Bytes of a token's text; where it is no whole character, the server gives them as numbers."""
    return len(piece) if isinstance(piece, list) else len(str(piece).encode("utf-8", "surrogatepass"))


def _characters(text: str, offsets: Sequence[int]) -> Iterator[int]:
    """Byte offsets as character offsets: that of the character they are in."""
    ends = list(accumulate(len(char.encode("utf-8", "surrogatepass")) for char in text))
    index = 0
    for offset in offsets:
        while index < len(ends) - 1 and ends[index] <= offset:
            index += 1
        yield index
