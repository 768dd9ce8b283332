"""What a server says when it refuses, in our words: one line, what is wrong, what to do."""

from __future__ import annotations

import json
import re
from typing import Any

from llmmagic.core.engines.openai.address import KEY_ENV, Address, ApiKey
from llmmagic.core.errors import ContextOverflowError, EngineError, LLMMagicError
from llmmagic.core.sanitize import one_line

_MOST_SAID = 300  # characters of a server's own words
_TOO_LONG = re.compile(
    r"context (?:length|size|window)|maximum (?:context|sequence|model) length|max_model_len|too many tokens"
    r"|prompt is too long|exceeds? the (?:available )?context",
    re.IGNORECASE,
)
_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)


class TryAgain(Exception):
    """Inside the engine: this attempt failed in a way that another one may not.

    Attributes:
        error: What to raise if there is no other attempt.
        after_s: How long the server wants us to wait; ``None`` if it does not say.
    """

    def __init__(self, error: LLMMagicError, after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after_s = after_s


class ServerSpeech:
    """Puts what one server says into our words."""

    def __init__(self, address: Address, key: ApiKey | None, model: str = "") -> None:
        """Remember whom it is about.

        Args:
            address: Of the server.
            key: What was sent; taken out of everything the server says.
            model: What the server was asked for.
        """
        self.address = address
        self.model = model
        self._key = key

    def clean(self, text: str) -> str:
        """A server's words, as they may be shown: one line, no controls, not our key."""
        return one_line(text if self._key is None else self._key.hide(text), _MOST_SAID)

    def absent(self, err: Exception) -> EngineError:
        """Nobody answers.

        Args:
            err: Of the HTTP library.
        """
        # What the HTTP library says when a connection is refused at every address of a host.
        why = self.clean(str(err).replace("All connection attempts failed", "connection refused")) or type(err).__name__
        return EngineError(
            f"No server answers at {self.address.base} ({why}).", hint="Start it, or correct the address (--base-url)."
        )

    def broken_off(self, *, silent: bool = False) -> EngineError:
        """A reply ended in the middle.

        Args:
            silent: Whether nothing came for too long; else the connection was closed.
        """
        what = "fell silent in the middle of the reply" if silent else "broke off the reply"
        return EngineError(f"The server {self.address.host} {what}.", hint="What came is kept; try again.")

    def nonsense(self, what: str) -> EngineError:
        """An answer that is none."""
        return EngineError(
            f"{self.address.base} does not answer like an OpenAI-compatible server: {self.clean(what)}.",
            hint="Check the address: it usually ends with /v1.",
        )

    def failure(self, status: int, body: str, *, counted: int = 0, context_window: int = 0) -> LLMMagicError:
        """An HTTP status that is no success, or an error in the middle of a stream.

        Args:
            status: HTTP status; 0 in a stream.
            body: What came with it.
            counted: Tokens that we took the prompt for.
            context_window: What we took the server's limit for.
        """
        error = _error_in(body)
        said = self.clean(str(error.get("message") or body or "no reason given")).rstrip(".") + "."
        host = self.address.host
        if status in (401, 403):
            return self._refused_key(said)
        if error.get("type") in _TOO_LONG_CODES or error.get("code") in _TOO_LONG_CODES or _TOO_LONG.search(said):
            return ContextOverflowError(
                f"The prompt is too long for the server {host}: {said}",
                needed_tokens=_whole(error.get("n_prompt_tokens")) or counted,
                context_window=_whole(error.get("n_ctx")) or context_window,
                hint="Send it again: the count is corrected by what the server said; or set --context lower.",
            )
        if status == 404 and "model" in said.lower():
            return EngineError(
                f"The server {host} has no model {self.model!r} now: {said}", hint="Load it again, or another one."
            )
        if status == 404:
            return self.nonsense(f"HTTP 404: {said.rstrip('.')}")
        what = f"failed (HTTP {status})" if status else "failed in the middle of the reply"
        return EngineError(f"The server {host} {what}: {said}")

    def _refused_key(self, said: str) -> EngineError:
        if self._key is None:
            return EngineError(
                f"The server {self.address.host} wants a key, and there is none for it: {said}",
                hint=f"Put it into {KEY_ENV}, or into the keyring: keyring set llmmagic {self.address.host}",
            )
        return EngineError(
            f"The server {self.address.host} refuses the key from {self._key.source}: {said}",
            hint="Correct it, and load again.",
        )


def is_worth_another_try(status: int, body: str) -> bool:
    """Whether a server may do better a moment later.

    Args:
        status: HTTP status.
        body: What came with it; a used-up quota is not worth it.
    """
    return status in _AGAIN and _error_in(body).get("code") != "insufficient_quota"


def _error_in(body: str) -> dict[str, Any]:
    """The error object, of the forms that servers give it."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    if isinstance(value, dict):
        error = value.get("error", value)
        if isinstance(error, dict):
            return {"message": error.get("detail"), **error}
        return {"message": str(error)}
    return {}


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
