"""What is sent to a server and what its chunks say: the part of the protocol that differs from server to server.

OpenAI's is at https://platform.openai.com/docs/api-reference/chat; what others add stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines.openai.facts import Kind, ServerFacts
from llmmagic.core.events import FinishReason, PrefillProgress

_SEEDS = 2**32 - 1  # llama.cpp takes 32 bits, and the highest number as "any"
_MOST_STOPS = 4  # OpenAI's limit; we look for all of them ourselves
# What a server calls the settings that OpenAI's API has not; those it lacks are left out, and that is said.
_EXTRA: dict[Kind, dict[str, str]] = {
    "llama.cpp": {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"},
    "vLLM": {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty"},
    "LM Studio": {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repeat_penalty"},
    "other": {"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty"},
    "Ollama": {},
    "Transformers": {},
    "OpenAI": {},
}
_OPEN, _CLOSE = "<think>\n", "\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server has counted.

    Attributes:
        prompt_tokens: Of the prompt.
        completion_tokens: Of the reply, hidden reasoning included.
        cached_tokens: Of the prompt, those it did not read again.
        hidden_tokens: Of the reply, those of reasoning that it keeps to itself.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    hidden_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What a chunk adds to a reply.

    Attributes:
        text: More of it; reasoning that comes beside the reply stands in ``<think>`` marks, as models write it.
        thinking: Whether such a mark is open now.
        finish: Why the reply ended, in the server's words; ``None`` while it goes on.
    """

    text: str
    thinking: bool
    finish: str | None


def chat_request(
    facts: ServerFacts, messages: Sequence[Mapping[str, Any]], config: GenerationConfig, limit: int
) -> dict[str, Any]:
    """The body of a request for a reply.

    Args:
        facts: About the server.
        messages: Oldest first.
        config: How to sample; what is not set is left to the server.
        limit: Most tokens of the reply.
    """
    # OpenAI's newer models refuse the name that all others know.
    name = "max_completion_tokens" if facts.kind == "OpenAI" else "max_tokens"
    return {"messages": [dict(message) for message in messages], name: limit, **_settings(facts, config)}


def completion_request(
    facts: ServerFacts, prompt_ids: Sequence[int], config: GenerationConfig, limit: int
) -> dict[str, Any]:
    """The body of a request to go on from token ids.

    Args:
        facts: About the server.
        prompt_ids: (T,).
        config: How to sample.
        limit: Most tokens of the reply.
    """
    own = {"add_special_tokens": False} if facts.kind == "vLLM" else {}
    return {"prompt": list(prompt_ids), "max_tokens": limit, **own, **_settings(facts, config)}


def left_out(facts: ServerFacts, config: GenerationConfig) -> list[str]:
    """Settings that the user has made and this server does not know."""
    extra = ("top_k", "min_p", "repetition_penalty")
    return [name for name in extra if getattr(config, name) is not None and name not in _EXTRA[facts.kind]]


def _settings(facts: ServerFacts, config: GenerationConfig) -> dict[str, Any]:
    given: dict[str, Any] = {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": None if config.seed is None else config.seed % _SEEDS,
        "stop": list(config.stop[:_MOST_STOPS]) or None,
        **{theirs: getattr(config, ours) for ours, theirs in _EXTRA[facts.kind].items()},
    }
    body: dict[str, Any] = {"model": facts.model, "stream": True, "stream_options": {"include_usage": True}}
    if facts.kind == "llama.cpp":
        body["return_progress"] = True
    return body | {name: value for name, value in given.items() if value is not None}


# --- chunks ------------------------------------------------------------------------------------------------------


def usage_in(chunk: Mapping[str, Any]) -> Usage | None:
    """What a chunk says about tokens, if it does."""
    usage = chunk.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if not prompt:
        return None
    cached = _count(usage.get("prompt_tokens_details"), "cached_tokens")
    hidden = _count(usage.get("completion_tokens_details"), "reasoning_tokens")
    return Usage(prompt, completion, min(cached, prompt), min(hidden, completion))


def progress_in(chunk: Mapping[str, Any]) -> PrefillProgress | None:
    """How far llama-server is with the prompt, if a chunk says so."""
    told = chunk.get("prompt_progress")
    if not isinstance(told, dict):
        return None
    return PrefillProgress(_count(told, "processed"), _count(told, "total"), _count(told, "cache"))


def said_in(chunk: Mapping[str, Any], *, thinking: bool) -> Said:
    """What a chunk adds to the reply.

    Args:
        chunk: Of a chat (``delta``) or of a completion (``text``).
        thinking: Whether a ``<think>`` mark is open.
    """
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    delta = choice.get("delta")
    parts: Mapping[str, Any] = delta if isinstance(delta, dict) else {"content": choice.get("text")}
    thought = _text(parts.get("reasoning_content")) or _text(parts.get("reasoning"))
    content = _text(parts.get("content"))
    finish = _text(choice.get("finish_reason")) or None
    text = ""
    if thought:
        text, thinking = ("" if thinking else _OPEN) + thought, True
    if thinking and (content or finish):
        text, thinking = text + _CLOSE, False
    return Said(text + content, thinking, finish)


def finish_reason(said: str, *, whole_window: bool) -> FinishReason:
    """Our word for why a reply ended.

    Args:
        said: The server's.
        whole_window: Whether its limit was the end of the window, not ``max_new_tokens``.
    """
    if said in ("length", "max_tokens"):
        return "context" if whole_window else "length"
    return "stop"


def _count(values: object, name: str) -> int:
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
