"""The llama.cpp engine: many times faster than transformers on a CPU, for chatting only.

It gets the same token ids as every other engine: the prompt is made by our template and not by a second one inside
llama.cpp.
"""

from __future__ import annotations

import json
import queue
import secrets
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from typing_extensions import override

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines.base import Capabilities, Engine, check_prompt
from llmmagic.core.engines.detokenize import StopStrings
from llmmagic.core.engines.llama_cpp_server import CHUNK_TOKENS, start_server
from llmmagic.core.engines.pace import pieces
from llmmagic.core.engines.reply import Reply
from llmmagic.core.engines.sampling_settings import Sampling, resolve_sampling
from llmmagic.core.errors import EngineError
from llmmagic.core.events import EngineEvent, FinishReason, PrefillProgress, TokenLogprobs
from llmmagic.core.operation import CancelToken

# The order of `llmmagic.core.engines.sampling`, so that settings mean the same.
_SAMPLERS = ("penalties", "temperature", "top_k", "top_p", "min_p")
_POLL_S = 0.1
_CERTAIN = 1e4  # added to a logit: no other token is sampled
_SEEDS = 2**32 - 1  # llama.cpp takes 32 bits, and the highest number as "any"


class LlamaCppEngine(Engine):
    """Generates with llama.cpp, in this process."""

    def __init__(
        self,
        file: Path,
        *,
        template: ChatTemplate,
        vocab_size: int,
        context_window: int,
        advice: Any | None = None,
        drafts: bool = True,
    ) -> None:
        """Load a GGUF file.

        Args:
            file: The weights.
            template: Knows the tokens that end a reply.
            vocab_size: V.
            context_window: Tokens that prompt and reply may have together; memory for all of them is taken now.
            advice: The model's generation config, as `resolve_sampling` takes it.
            drafts: Guess tokens of text that repeats itself: the same tokens, sooner.

        Raises:
            ModelLoadError: llama.cpp cannot load it.
        """
        self._file = file
        self._drafts = drafts
        self._server: Any | None = start_server(file, context_window=context_window, drafts=drafts)
        self._template = template
        self._vocab_size = vocab_size
        self._context_window = context_window
        self._advice = advice
        self._reuse = False

    @property
    @override
    def name(self) -> str:
        return "llama.cpp"

    @property
    def file(self) -> Path:
        """The weights."""
        return self._file

    @property
    @override
    def context_window(self) -> int:
        return self._context_window

    @property
    @override
    def capabilities(self) -> Capabilities:
        return Capabilities(logprobs=True)

    @override
    def reset(self) -> None:
        self._reuse = False

    @override
    def close(self) -> None:
        self._server = None

    @override
    def prefill_ahead(self, prompt_ids: Sequence[int], cancel: CancelToken) -> int:
        """See `Engine.prefill_ahead`. What the last prompt left behind is put aside by llama.cpp itself."""
        check_prompt(prompt_ids, vocab_size=self._vocab_size, context_window=self._context_window)
        ready = 0
        for ready in pieces(0, len(prompt_ids), cancel, most=CHUNK_TOKENS):
            for _ in self._stream(self._request(prompt_ids[:ready], GenerationConfig(), 0), cancel):
                continue
        return ready

    @override
    def generate(
        self, prompt_ids: Sequence[int], config: GenerationConfig, cancel: CancelToken
    ) -> Iterator[EngineEvent]:
        """Generate a reply; see `Engine.generate`.

        llama.cpp tells the ids of whole characters only: where several tokens make up one character, they are taken
        from encoding it again.
        """
        reply = Reply(prompt_tokens=len(prompt_ids))
        room = check_prompt(prompt_ids, vocab_size=self._vocab_size, context_window=self._context_window)
        limit = min(config.max_new_tokens, room)
        stops = StopStrings(config.stop)
        stop_ids = frozenset(config.stop_token_ids)
        reason: FinishReason = "cancelled"
        if config.logprobs is not None:
            self._stop_drafting()
        request = self._request(prompt_ids, config, limit)
        chunks = self._stream(request, cancel)
        try:
            for chunk in chunks:
                progress = chunk.get("prompt_progress")
                if progress is not None:
                    reply.cached_tokens = progress["cache"]
                    yield PrefillProgress(progress["processed"], progress["total"], progress["cache"])
                    continue
                choice = chunk["choices"][0]
                if choice["finish_reason"] is not None:
                    reason = self._reason(choice["finish_reason"], limit == config.max_new_tokens)
                    if reason == "stop" and chunk["usage"]["completion_tokens"] > len(reply.token_ids):
                        yield reply.add(self._template.eos_token_ids[0], "")
                    break
                *before, last = self._ids(chunk, choice["text"], len(reply.token_ids))
                for token_id in before:
                    yield reply.add(token_id, "")
                ended = last in stop_ids
                yield reply.add(last, "" if ended else stops.feed(choice["text"]), _logprobs(chunk))
                if ended or stops.found:
                    reason = "stop"
                    break
        finally:
            chunks.close()  # waits until llama.cpp has heard of it
        held = stops.flush()
        if held:
            yield reply.add(None, held)
        yield reply.finished(reason)

    def next_tokens(self, prompt_ids: Sequence[int], count: int) -> list[tuple[int, float]]:
        """What comes next, as llama.cpp sees it before any sampling.

        Args:
            prompt_ids: (T,).
            count: How many tokens to tell.

        Returns:
            Ids and log-probabilities in nats, the most likely first.

        Raises:
            EngineError: Generation failed.
        """
        check_prompt(prompt_ids, vocab_size=self._vocab_size, context_window=self._context_window)
        config = GenerationConfig(max_new_tokens=1, temperature=0, repetition_penalty=1)
        # What is told are the model's own probabilities, whatever is sampled. So a plain letter is: nothing is told of
        # a token that only begins a character.
        letter = [[self._template.encoder.encode("a")[-1], _CERTAIN]]
        asked = {"n_probs": count, "stream": False, "logit_bias": letter}
        request = {**self._request(prompt_ids, config, 1), **asked}
        (answer,) = self._stream(request, CancelToken())
        (told,) = answer["choices"][0]["logprobs"]["content"]
        return [(item["id"], item["logprob"]) for item in told["top_logprobs"]]

    def _request(self, prompt_ids: Sequence[int], config: GenerationConfig, limit: int) -> dict[str, Any]:
        sampling: Sampling = resolve_sampling(config, self._advice)
        seed = secrets.randbelow(_SEEDS) if config.seed is None else config.seed % _SEEDS
        reuse, self._reuse = self._reuse, True
        return {
            "prompt": list(prompt_ids),
            "n_predict": limit,
            "stream": True,
            "return_progress": True,
            "return_tokens": True,
            "verbose": True,  # the only form in which tokens come with the text
            "cache_prompt": reuse,
            "samplers": list(_SAMPLERS),
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repetition_penalty,
            "repeat_last_n": self._context_window,
            "seed": seed,
            "n_probs": 0 if config.logprobs is None else max(1, config.logprobs),
        }

    def _stop_drafting(self) -> None:
        """For good: llama.cpp tells no probabilities of what it has guessed, and cannot be told not to guess once."""
        if self._drafts and self._server is not None:
            self._server = None  # its memory first
            self._server = start_server(self._file, context_window=self._context_window, drafts=False)
            self._drafts = self._reuse = False

    def _ids(self, chunk: dict[str, Any], text: str, known: int) -> list[int]:
        """The tokens of a chunk: one, or those of a character that took several."""
        told = chunk["__verbose"]
        ids: list[int] = told["tokens"]
        if told["tokens_predicted"] - known > len(ids):
            again = self._template.encoder.encode(text)
            return [*again[:-1], ids[-1]] if len(again) > 1 else ids
        return ids

    def _reason(self, said: str, asked: bool) -> FinishReason:
        if said == "length":
            return "length" if asked else "context"
        return "stop"

    def _stream(self, request: dict[str, Any], cancel: CancelToken) -> Generator[dict[str, Any], None, None]:
        """What llama.cpp says, as it says it: it calls back, and this is an iterator."""
        if self._server is None:
            raise EngineError("The engine is closed.", hint="Load the model again.")
        # A short queue: llama.cpp must not run ahead of a reader who may want to cancel.
        chunks: queue.Queue[dict[str, Any] | RuntimeError | None] = queue.Queue(maxsize=1)
        left = threading.Event()
        server = self._server

        def tell(chunk: dict[str, Any] | RuntimeError | None) -> None:
            while not left.is_set():
                try:
                    return chunks.put(chunk, timeout=_POLL_S)
                except queue.Full:
                    continue

        def hear(chunk: dict[str, Any]) -> bool:
            tell(chunk)
            return left.is_set() or cancel.requested

        def work() -> None:
            try:
                server.handle_completions(request, hear)
            except RuntimeError as err:
                tell(err)
            tell(None)

        thread = threading.Thread(target=work, name="llmmagic-llama-cpp", daemon=True)
        thread.start()
        try:
            while (chunk := chunks.get()) is not None:
                if isinstance(chunk, RuntimeError):
                    raise EngineError(f"llama.cpp failed while generating: {chunk}") from chunk
                if "error" in chunk:
                    raise EngineError(f"llama.cpp failed while generating: {chunk['error']['message']}")
                yield chunk
        finally:
            left.set()
            thread.join()


def _logprobs(chunk: dict[str, Any]) -> TokenLogprobs | None:
    """Of the last token of a chunk, if it was asked for."""
    told = chunk["__verbose"].get("completion_probabilities")
    if not told:
        return None
    top = tuple((item["id"], item["logprob"]) for item in told[-1]["top_logprobs"])
    return TokenLogprobs(told[-1]["id"], told[-1]["logprob"], top)


def read_advice(folder: Path) -> Any | None:
    """A model's generation config, without transformers.

    Args:
        folder: May hold ``generation_config.json``.

    Returns:
        Its values as attributes; ``None`` if there is none that can be read.
    """
    try:
        values = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return SimpleNamespace(**values) if isinstance(values, dict) else None
