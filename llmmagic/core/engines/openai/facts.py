"""What a server is, which models it has, and how much of a conversation they can read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from llmmagic.core.engines.openai.client import ServerClient
from llmmagic.core.errors import ModelNotFoundError, did_you_mean

Kind = Literal["llama.cpp", "vLLM", "Ollama", "LM Studio", "Transformers", "OpenAI", "other"]
UNKNOWN_WINDOW = 8192
"""Taken where a server does not say how much its model can read."""
_OLLAMA_WINDOW = 4096  # what Ollama gives a model that nobody has set another one for
_SHOWN_MODELS = 12


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server and the model on it.

    Attributes:
        kind: Which program it is, as far as that can be told.
        model: What the model is called there.
        root: The model's own name, where ``model`` is an alias: a Hub id or a folder.
        window: Tokens that prompt and reply may have together; ``None`` if the server does not say.
        window_from: Where that is known from.
        parameters: Number of weights; 0 if the server does not say.
        chat_template: The template the server uses, if it tells.
        special_tokens: ``bos_token`` and ``eos_token``, likewise.
    """

    kind: Kind
    model: str
    root: str | None = None
    window: int | None = None
    window_from: str = ""
    parameters: int = 0
    chat_template: str | None = None
    special_tokens: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """What to call the model: a file by its name alone."""
        return PurePath(self.model).name if self.model.endswith(".gguf") else self.model

    @property
    def takes_ids(self) -> bool:
        """Whether the server takes a prompt as token ids and goes on with it."""
        return self.kind in ("llama.cpp", "vLLM")


def look_at(client: ServerClient, wanted: str, listed: object) -> ServerFacts:
    """Find out what can be found out.

    Args:
        client: Of the server.
        wanted: The model that was asked for; empty for the first one.
        listed: What the server answered to ``GET /models``.

    Returns:
        The facts.

    Raises:
        ModelNotFoundError: The server has no such model, or none at all.
        EngineError: What it answered is no list of models.
    """
    cards = _cards(client, listed)
    kind = _kind(client, cards)
    card = _choose(client, cards, kind, wanted)
    model = str(card["id"])
    match kind:
        case "llama.cpp":
            return _llama_cpp(client, card, model)
        case "vLLM":
            root = card.get("parent") or card.get("root")
            window = _whole(card.get("max_model_len")) or _window_of(cards, root)
            return ServerFacts(kind, model, _text(root), window, "max_model_len of the server")
        case "Ollama":
            window, source = _ollama_window(client, model)
            return ServerFacts(kind, model, None, window, source)
        case "LM Studio":
            about = client.probe(f"//api/v0/models/{model}") or {}
            window = _whole(about.get("loaded_context_length")) or _whole(about.get("max_context_length"))
            return ServerFacts(kind, model, None, window, "what LM Studio has loaded it with")
        case _:
            window = _whole(card.get("context_length")) or _whole(card.get("max_model_len"))  # OpenRouter and others
            return ServerFacts(kind, model, _text(card.get("root")), window, "the server's list of models")


# --- which program -----------------------------------------------------------------------------------------------


def _cards(client: ServerClient, listed: object) -> list[dict[str, Any]]:
    data = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(data, list):
        raise client.speech.nonsense("/models is no list of models")
    return [card for card in data if isinstance(card, dict) and _text(card.get("id"))]


def _kind(client: ServerClient, cards: Sequence[Mapping[str, Any]]) -> Kind:
    owners = {card.get("owned_by") for card in cards}
    if "llamacpp" in owners:
        return "llama.cpp"
    if "vllm" in owners:
        return "vLLM"
    if client.address.official:
        return "OpenAI"
    if isinstance(version := client.probe("//api/version"), dict) and "version" in version:
        return "Ollama"
    if isinstance(models := client.probe("//api/v0/models"), dict) and "data" in models:
        return "LM Studio"
    paths = client.probe("//openapi.json")
    if isinstance(paths, dict) and {"/load_model", "/v1/chat/completions"} <= set(paths.get("paths", ())):
        return "Transformers"
    return "other"


def _choose(client: ServerClient, cards: Sequence[dict[str, Any]], kind: Kind, wanted: str) -> dict[str, Any]:
    names = [str(card["id"]) for card in cards]
    host = client.address.host
    if not wanted:
        if not cards:
            raise ModelNotFoundError(
                f"The server {host} does not say which models it has.", hint="Name one (MODEL before --base-url)."
            )
        return cards[0]
    for card in cards:
        aliases = card.get("aliases")
        others = aliases if isinstance(aliases, list) else []
        if wanted in (card["id"], *others, PurePath(str(card["id"])).name) or card["id"] == f"{wanted}:latest":
            return card
    if kind == "Transformers" or not cards:  # it loads what it is asked for, and lists only what it has downloaded
        return {"id": wanted}
    shown = ", ".join(client.speech.clean(name) for name in names[:_SHOWN_MODELS])
    more = f" and {len(names) - _SHOWN_MODELS} more" if len(names) > _SHOWN_MODELS else ""
    hint = did_you_mean(wanted, [name for full in names for name in (full, PurePath(full).name)])
    raise ModelNotFoundError(
        f"The server {host} has no model {wanted!r}; it has: {shown}{more}.",
        hint=client.speech.clean(hint) or "Take one of these, or leave the model out for the first.",
    )


# --- how much it can read ----------------------------------------------------------------------------------------


def _llama_cpp(client: ServerClient, card: Mapping[str, Any], model: str) -> ServerFacts:
    given = card.get("meta")
    meta: Mapping[str, Any] = given if isinstance(given, dict) else {}
    props = client.probe("//props")
    told: Mapping[str, Any] = props if isinstance(props, dict) else {}
    defaults = told.get("default_generation_settings")
    slot = _whole(defaults.get("n_ctx")) if isinstance(defaults, dict) else None
    template = _text(told.get("chat_template"))
    special = {name: str(told[name]) for name in ("bos_token", "eos_token") if _text(told.get(name))}
    return ServerFacts(
        "llama.cpp",
        model,
        window=slot or _whole(meta.get("n_ctx")) or _whole(meta.get("n_ctx_train")),
        window_from="n_ctx of the server",
        parameters=_whole(meta.get("n_params")) or 0,
        chat_template=template,
        special_tokens=special,
    )


def _ollama_window(client: ServerClient, model: str) -> tuple[int, str]:
    """What Ollama will really read: it cuts off the beginning of a longer prompt without a word."""
    shown = client.probe("//api/show", {"model": model})
    about: Mapping[str, Any] = shown if isinstance(shown, dict) else {}
    if found := re.search(r"^num_ctx\s+(\d+)", str(about.get("parameters", "")), re.MULTILINE):
        return int(found[1]), "num_ctx of the model in Ollama"
    running = client.probe("//api/ps")
    for entry in running.get("models", ()) if isinstance(running, dict) else ():
        if entry.get("model") == model and (window := _whole(entry.get("context_length"))):
            return window, "what Ollama has loaded it with"
    info = about.get("model_info")
    lengths = [_whole(v) for k, v in info.items() if k.endswith(".context_length")] if isinstance(info, dict) else []
    return min(lengths[0] or _OLLAMA_WINDOW, _OLLAMA_WINDOW) if lengths else _OLLAMA_WINDOW, "Ollama's default"


def _window_of(cards: Sequence[Mapping[str, Any]], name: object) -> int | None:
    """The limit of the model that an adapter sits on."""
    return next((_whole(card.get("max_model_len")) for card in cards if card.get("id") == name), None)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None
