"""Requests to one server: short ones at once, replies as a stream that can be left at any moment."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import httpx
import httpx_sse

from llmmagic.core.engines.openai.address import Address, ApiKey
from llmmagic.core.engines.openai.errors import ServerSpeech, TryAgain, is_worth_another_try
from llmmagic.core.engines.openai.retry import retry_after
from llmmagic.core.errors import LLMMagicError, NetworkError
from llmmagic.core.operation import CancelledOperation, CancelToken

_POLL_S = 0.05  # how soon a cancel is heard
_DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server may take, in seconds.

    Attributes:
        connect_s: Until it takes the connection.
        answer_s: For a short request.
        chunk_s: Until the next piece of a reply; the first one comes when the whole prompt has been read.
    """

    connect_s: float = 10.0
    answer_s: float = 20.0
    chunk_s: float = 600.0


class ServerClient:
    """Talks to one server, with the key it has for it. For several threads.

    Attributes:
        speech: Puts what the server says into our words.
    """

    def __init__(self, address: Address, key: ApiKey | None, patience: Patience | None = None) -> None:
        """Prepare; nothing is sent yet.

        Args:
            address: Of the server.
            key: Sent with every request to it, and only to it: redirects are not followed.
            patience: How long it may take.
        """
        self.address = address
        self.speech = ServerSpeech(address, key)
        self._patience = patience or Patience()
        self._headers = {} if key is None else key.header()
        # Made once: reading the certificates takes longer than a request.
        self._ssl: ssl.SSLContext | bool = httpx.create_ssl_context() if address.base.startswith("https") else False
        # A proxy of the network is not for this machine.
        self._short = httpx.Client(
            headers=self._headers,
            verify=self._ssl,
            trust_env=not address.local,
            timeout=httpx.Timeout(self._patience.answer_s, connect=self._patience.connect_s),
        )

    def close(self) -> None:
        """Close the connections."""
        self._short.close()

    def ask(self, method: Literal["GET", "POST"], path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a short request.

        Args:
            method: Of HTTP.
            path: After `Address.base`; what begins with ``//`` follows `Address.root`.
            body: JSON.

        Returns:
            The answer's JSON.

        Raises:
            TryAgain: It did not work, and may work a moment later.
            NetworkError: Nobody answers.
            LLMMagicError: The server refuses, or what answers is no such server.
        """
        url = f"{self.address.root}{path[1:]}" if path.startswith("//") else f"{self.address.base}{path}"
        try:
            response = self._short.request(method, url, json=body)
        except httpx.ConnectError as err:  # refused, or no such host: waiting does not help
            absent = self.speech.absent(err)
            raise NetworkError(absent.message, hint=absent.hint) from err
        except httpx.TimeoutException as err:
            raise TryAgain(self.speech.absent(err)) from err
        except (httpx.HTTPError, httpx.InvalidURL) as err:
            raise self.speech.absent(err) from err
        if response.is_success:
            try:
                return response.json()
            except ValueError as err:
                raise self.speech.nonsense(f"{path} is no JSON") from err
        raise self._refusal(response, {})

    def probe(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask for something that only some servers have.

        Args:
            path: As for `ask`.
            body: JSON; without one it is a GET.

        Returns:
            The answer's JSON; ``None`` if there is none.
        """
        try:
            return self.ask("GET" if body is None else "POST", path, body)
        except (LLMMagicError, TryAgain):
            return None

    def _refusal(self, response: httpx.Response, figures: Mapping[str, int]) -> LLMMagicError | TryAgain:
        status, text = response.status_code, response.text
        if response.is_redirect:  # not followed: the key is for this server alone
            return self.speech.nonsense(f"it sends us elsewhere (HTTP {status})")
        error = self.speech.failure(status, text, **figures)
        if is_worth_another_try(status, text):
            return TryAgain(error, retry_after(response.headers.get("retry-after")))
        return error

    def stream(
        self, path: str, body: Mapping[str, Any], cancel: CancelToken, **figures: int
    ) -> tuple[ChunkStream, dict[str, Any] | None]:
        """Begin a reply.

        Args:
            path: After `Address.base`.
            body: JSON.
            cancel: Closes the connection as soon as it is requested.
            **figures: ``counted`` and ``context_window``, for what may be said about them.

        Returns:
            The stream, and its first chunk; ``None`` if it has none. Close the stream.

        Raises:
            TryAgain: It did not begin, and may a moment later.
            LLMMagicError: The server refuses.
            CancelledOperation: An end was asked for.
        """
        stream = ChunkStream(self._chunks(path, body, figures), cancel)
        try:
            return stream, stream.read()
        except httpx.HTTPError as err:
            stream.close()
            raise TryAgain(self.speech.absent(err)) from err
        except BaseException:
            stream.close()
            raise

    async def _chunks(
        self, path: str, body: Mapping[str, Any], figures: Mapping[str, int]
    ) -> AsyncGenerator[dict[str, Any], None]:
        timeout = httpx.Timeout(self._patience.chunk_s, connect=self._patience.connect_s)
        async with (
            httpx.AsyncClient(
                headers=self._headers, verify=self._ssl, trust_env=not self.address.local, timeout=timeout
            ) as client,
            httpx_sse.aconnect_sse(client, "POST", f"{self.address.base}{path}", json=body) as source,
        ):
            if not source.response.is_success:
                await source.response.aread()
                raise self._refusal(source.response, figures)
            try:
                async for event in source.aiter_sse():
                    if event.data == _DONE:
                        return
                    if event.data:
                        yield self._chunk(event.data, figures)
            except httpx_sse.SSEError as err:
                raise self.speech.nonsense(f"{path} is no stream") from err

    def _chunk(self, data: str, figures: Mapping[str, int]) -> dict[str, Any]:
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError) as err:
            raise self.speech.failure(0, data, **figures) from err
        if not isinstance(chunk, dict) or chunk.get("error"):
            raise self.speech.failure(0, data, **figures)
        return chunk


class ChunkStream:
    """Chunks of a reply, read from an event loop of its own: there a wait for the network can be left at any moment.

    Not for a thread in which an event loop runs already; operations of a session have threads of their own.
    """

    def __init__(self, chunks: AsyncGenerator[dict[str, Any], None], cancel: CancelToken) -> None:
        """Take over a stream.

        Args:
            chunks: The stream.
            cancel: Looked at while waiting.
        """
        self._chunks = chunks
        self._cancel = cancel
        self._loop = asyncio.new_event_loop()

    def read(self) -> dict[str, Any] | None:
        """The next chunk.

        Returns:
            It; ``None`` at the end.

        Raises:
            CancelledOperation: An end was asked for; the connection is closed.
            httpx.HTTPError: The connection broke.
            LLMMagicError: The server said so.
        """
        task = self._loop.create_task(self._next())
        while not task.done():
            if self._cancel.requested:
                task.cancel()
                with suppress(asyncio.CancelledError, httpx.HTTPError, LLMMagicError, TryAgain):
                    self._loop.run_until_complete(task)
                raise CancelledOperation
            self._loop.run_until_complete(asyncio.wait({task}, timeout=_POLL_S))
        return task.result()

    async def _next(self) -> dict[str, Any] | None:
        return await anext(self._chunks, None)

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        if self._loop.is_closed():
            return
        try:
            self._loop.run_until_complete(self._chunks.aclose())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
