"""Open a model that runs on a server: look at the server, find a way to count, and say what was found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from llmmagic.core.config import LoadConfig
from llmmagic.core.engines.openai.address import ApiKey, check_key, find_key, parse_address
from llmmagic.core.engines.openai.client import Patience, ServerClient
from llmmagic.core.engines.openai.counting import choose_template
from llmmagic.core.engines.openai.engine import OpenAIEngine
from llmmagic.core.engines.openai.facts import UNKNOWN_WINDOW, ServerFacts, look_at
from llmmagic.core.engines.openai.retry import patiently
from llmmagic.core.engines.opened import OpenedEngine
from llmmagic.core.events import Choice, LoadEvent, ModelInfo, Notice
from llmmagic.core.operation import CancelToken


def open_server(
    config: LoadConfig,
    *,
    emit: Callable[[LoadEvent], None],
    cancel: CancelToken,
    patience: Patience | None = None,
) -> OpenedEngine:
    """Get ready to chat with a model on a server.

    Args:
        config: Its address, and which model.
        emit: Called with a `Notice` for what the user should know.
        cancel: Checked between requests.
        patience: How long the server may take.

    Returns:
        The opened engine, without ``loaded``.

    Raises:
        ConfigError: The key must not be sent there, or is none.
        NetworkError: No server answers.
        ModelNotFoundError: The server has no such model.
        EngineError: The server refuses, or is none of this kind.
        CancelledOperation: It was cancelled.
    """
    assert config.base_url is not None  # the config checks that
    address = parse_address(config.base_url)
    key = find_key(address)
    check_key(address, key, over_http=config.key_over_http)
    client = ServerClient(address, key, patience)
    try:
        listed = patiently(partial(client.ask, "GET", "/models"), cancel)
        while True:
            try:
                emit(next(listed))
            except StopIteration as end:
                models = end.value
                break
        cancel.check()
        facts = look_at(client, config.model_id.strip(), models)
        client.speech.model = facts.model
        cancel.check()
        template, counts = choose_template(client, facts)
    except BaseException:
        client.close()
        raise
    window, limit = _window(config, facts)
    if facts.window is None and config.max_context is None:
        emit(
            Notice(
                f"{address.host} does not say how much its model can read: {window:,} tokens are assumed.",
                level="warning",
                topic="context-window",
            )
        )
    info = _info(facts, window, address.host, (_server(facts, address.base, key), *limit, counts))
    return OpenedEngine(OpenAIEngine(client, facts, template, window), template, info)


def _window(config: LoadConfig, facts: ServerFacts) -> tuple[int, tuple[Choice, ...]]:
    """Tokens that prompt and reply may have, and where that is from if nobody asked for it."""
    if config.max_context is not None:
        return min(config.max_context, facts.window or config.max_context), ()
    if facts.window is None:
        reason = "the server does not say; --context (in a notebook --max-context) sets it"
        return UNKNOWN_WINDOW, (Choice("context_window", str(UNKNOWN_WINDOW), reason),)
    return facts.window, (Choice("context_window", str(facts.window), facts.window_from),)


def _server(facts: ServerFacts, base: str, key: ApiKey | None) -> Choice:
    kind = "an OpenAI-compatible server" if facts.kind == "other" else facts.kind
    return Choice("server", base, f"{kind}, {'without a key' if key is None else f'with the key from {key.source}'}")


def _info(facts: ServerFacts, window: int, host: str, choices: tuple[Choice, ...]) -> ModelInfo:
    return ModelInfo(
        model_id=facts.name,
        revision=None,
        engine="openai",
        architecture="",
        parameters=facts.parameters,
        layers=0,
        hidden_size=0,
        vocab_size=0,
        quantization="",
        dtype="",
        device="",
        context_window=window,
        memory_bytes=0,
        choices=choices,
        server=host,
    )
