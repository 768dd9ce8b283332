"""Where the server is, and the key for it: found where people keep keys, and never shown again.

A key is looked for in this order:

1. ``LLMMAGIC_API_KEY``: for whatever server is named;
2. the system's keyring, if the ``keyring`` package is installed: service ``llmmagic``, name ``HOST:PORT``;
3. ``OPENAI_API_KEY``: for OpenAI itself and the server that ``OPENAI_BASE_URL`` names, and for no other: an address
   that someone was talked into must not get it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from urllib.parse import urlsplit

from llmmagic.core.config import check_address
from llmmagic.core.errors import ConfigError

KEY_ENV, OPENAI_KEY_ENV, OPENAI_URL_ENV = "LLMMAGIC_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"
KEYRING_SERVICE = "llmmagic"
_OPENAI_HOST = "api.openai.com"
_HIDDEN = "[key]"


@dataclass(frozen=True, slots=True)
class Address:
    """Of a server.

    Attributes:
        base: What the paths of OpenAI's API follow, no slash at its end: ``http://127.0.0.1:8000/v1``.
        root: The same without ``/v1``: what a server's own paths follow.
        host: Host and, if it was given, port.
        secure: Whether nobody between here and there can read along: https, or this machine itself.
        local: Whether it is this machine.
        official: Whether it is OpenAI itself.
    """

    base: str
    root: str
    host: str
    secure: bool
    local: bool
    official: bool


def parse_address(text: str) -> Address:
    """Read an address.

    Args:
        text: With or without ``/v1`` at its end.

    Returns:
        Its parts.

    Raises:
        ConfigError: It is none.
    """
    check_address(text)
    parts = urlsplit(text.strip())
    path = parts.path.rstrip("/")
    root = f"{parts.scheme}://{parts.netloc}{path.removesuffix('/v1')}"
    name = parts.hostname or ""
    local = _is_local(name)
    return Address(
        # Every server of this kind has it; a path of another name (a proxy's) is taken as it is.
        base=f"{root}/v1" if path in ("", "/v1") or path.endswith("/v1") else root,
        root=root,
        host=parts.netloc,
        secure=parts.scheme == "https" or local,
        local=local,
        official=name == _OPENAI_HOST,
    )


def _is_local(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class ApiKey:
    """A key that shows itself to nobody but the server."""

    __slots__ = ("_text", "source")

    def __init__(self, text: str, source: str) -> None:
        """Hold a key.

        Args:
            text: The key.
            source: Where it was found, for messages.

        Raises:
            ConfigError: It cannot be sent; it is not repeated in the message.
        """
        text = text.strip()
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise ConfigError(f"The key in {source} is none: it has spaces, line breaks or signs that no key has.")
        self._text = text
        self.source = source

    def __repr__(self) -> str:
        return f"ApiKey(from {self.source})"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("A key is not written down.")

    def header(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self._text}"}

    def hide(self, text: str) -> str:
        """A text of the server without the key: some repeat it in their errors."""
        return text.replace(self._text, _HIDDEN)


def find_key(address: Address, environ: Mapping[str, str] = os.environ) -> ApiKey | None:
    """The key for a server, if there is one.

    Args:
        address: Of the server.
        environ: Environment variables.

    Returns:
        It, or ``None``.

    Raises:
        ConfigError: What was found is no key.
    """
    if text := environ.get(KEY_ENV, "").strip():
        return ApiKey(text, KEY_ENV)
    if kept := _from_keyring(address.host):
        return ApiKey(kept, "the keyring")
    text = environ.get(OPENAI_KEY_ENV, "").strip()
    if text and (address.official or _is_named(address, environ.get(OPENAI_URL_ENV, ""))):
        return ApiKey(text, OPENAI_KEY_ENV)
    return None


def _is_named(address: Address, url: str) -> bool:
    try:
        return bool(url.strip()) and parse_address(url).base == address.base
    except ConfigError:
        return False


def _from_keyring(name: str) -> str | None:
    if find_spec("keyring") is None:
        return None
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(KEYRING_SERVICE, name)
    except KeyringError:  # locked, or no keyring on this machine: as if there was nothing in it
        return None


def check_key(address: Address, key: ApiKey | None, *, over_http: bool) -> None:
    """Refuse to show a key to whoever listens on the way.

    Args:
        address: Of the server.
        key: What would be sent.
        over_http: Whether that was asked for by name.

    Raises:
        ConfigError: The key would go over the network unencrypted.
    """
    if key is None or address.secure or over_http:
        return
    raise ConfigError(
        f"The key from {key.source} is not sent to {address.host} over plain http: everybody on the way could read it.",
        hint="Use https, an ssh tunnel to this machine, or --key-over-http (in Python: key_over_http=True).",
    )
