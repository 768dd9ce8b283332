"""The transformers engine: our own decode loop over a KV cache that lives from turn to turn.

``model.generate`` starts anew each time and spends much of a small model's time on bookkeeping for features a chat does
not use. This loop reads only what is new in a prompt, can be stopped between any two tokens, and hands out each token
as it comes.
"""

from __future__ import annotations

import inspect
import traceback
import weakref
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from typing_extensions import override

from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines.base import Capabilities, Engine, check_prompt
from llmmagic.core.engines.detokenize import StopStrings, make_detokenizer
from llmmagic.core.engines.drafting import DraftingFeeder
from llmmagic.core.engines.kv_cache import KVCache
from llmmagic.core.engines.pace import pieces
from llmmagic.core.engines.reply import Reply
from llmmagic.core.engines.sampling import Sampler
from llmmagic.core.engines.sampling_settings import resolve_sampling
from llmmagic.core.errors import EngineError
from llmmagic.core.events import EngineEvent, FinishReason, PrefillProgress, TokenLogprobs
from llmmagic.core.models.memory import free_memory_bytes
from llmmagic.core.operation import CancelToken

if TYPE_CHECKING:
    from llmmagic.core.models.load import LoadedModel

# Small enough that a cancel is heard within a second on a CPU, large enough for full speed.
_CHUNK_TOKENS_CPU = 256
_CHUNK_TOKENS_GPU = 2048
_AHEAD_SHARE = 0.25
"""Of the free memory, at most this much goes into what is read ahead."""


class TransformersEngine(Engine):
    """Generates with a model in this process.

    One reply at a time, from one thread at a time. After an error in the model the KV cache is dropped, so the next
    call starts clean.

    Example:
        >>> from llmmagic.core.engines.opened import open_engine
        >>> from llmmagic.core.config import GenerationConfig, LoadConfig
        >>> from llmmagic.core.operation import CancelToken
        >>> cancel = CancelToken()
        >>> config = LoadConfig(model_id="tiny-random")
        >>> opened = open_engine(config, worker=False, emit=lambda event: None, cancel=cancel)
        >>> ids = opened.template.encode([{"role": "user", "content": "Hello"}])
        >>> events = list(opened.engine.generate(ids, GenerationConfig(max_new_tokens=8, seed=1), cancel))
        >>> len(events[-1].token_ids) <= 8
        True
    """

    def __init__(self, loaded: LoadedModel, *, drafts: bool = True) -> None:
        """Take a loaded model.

        Args:
            loaded: Shared with whoever trains it or changes its adapters; its ``model`` is read anew at each call.
            drafts: Guess tokens of text that repeats itself, where that changes nothing but the time they take.
        """
        self._loaded = loaded
        self._drafts = drafts
        self._kv_cache: KVCache | None = None
        self._ahead: KVCache | None = None  # what was read in idle time, beside the cache of the last prompt
        self._weights: tuple[weakref.ref[Any], str | None] | None = None

    @property
    @override
    def name(self) -> str:
        return "transformers"

    @property
    @override
    def context_window(self) -> int:
        return self._loaded.info.context_window

    @property
    @override
    def capabilities(self) -> Capabilities:
        return Capabilities(adapters=True, training=True, logprobs=True)

    @override
    def reset(self) -> None:
        self._kv_cache = self._ahead = None

    @override
    def prefill_ahead(self, prompt_ids: Sequence[int], cancel: CancelToken) -> int:
        check_prompt(prompt_ids, vocab_size=self._loaded.info.vocab_size, context_window=self.context_window)
        model = self._prepare_model()
        current = self._cache_for(model, ())
        if not current.extensible or current.common_prefix(prompt_ids) == len(prompt_ids):
            return 0
        free_bytes = free_memory_bytes(str(model.get_input_embeddings().weight.device))
        if current.bytes_per_token * len(prompt_ids) > _AHEAD_SHARE * free_bytes:
            return 0
        self._ahead = ahead = self._ahead or KVCache(model.config)
        runner = _Runner(model, ahead)
        try:
            for end in pieces(ahead.common_prefix(prompt_ids), len(prompt_ids), cancel):
                for _ in runner.prefill(prompt_ids[:end], cancel):
                    continue
        except (RuntimeError, MemoryError) as err:
            self._ahead = None
            raise _engine_error(err, len(prompt_ids)) from err
        except BaseException:
            self._ahead = None
            raise
        return ahead.common_prefix(prompt_ids)

    @override
    def close(self) -> None:
        self.reset()

    @override
    def generate(
        self, prompt_ids: Sequence[int], config: GenerationConfig, cancel: CancelToken
    ) -> Iterator[EngineEvent]:
        reply = Reply(prompt_tokens=len(prompt_ids))
        room = check_prompt(prompt_ids, vocab_size=self._loaded.info.vocab_size, context_window=self.context_window)
        model = self._prepare_model()
        runner = _Runner(model, self._cache_for(model, prompt_ids))
        try:
            logits = yield from runner.prefill(prompt_ids, cancel)
            reply.cached_tokens = runner.cached_tokens
            if logits is None:
                yield reply.finished("cancelled")
                return
            yield from self._decode(runner, logits, prompt_ids, room, config, cancel, reply)
        except (RuntimeError, MemoryError) as err:
            self.reset()
            raise _engine_error(err, len(prompt_ids) + len(reply.token_ids)) from err
        except GeneratorExit:  # the caller left the loop, between two tokens: the cache is consistent
            raise
        except BaseException:
            self.reset()
            raise

    def _prepare_model(self) -> Any:
        model = self._loaded.model
        if model.training:  # left behind by an interrupted training
            model.eval()
        return model

    def _cache_for(self, model: Any, prompt_ids: Sequence[int]) -> KVCache:
        """The cache of these very weights that a prompt goes on from: other weights or another adapter need others."""
        adapter = self._loaded.info.adapter
        same = self._weights is not None and self._weights[0]() is model and self._weights[1] == adapter
        if self._kv_cache is None or not same:
            self._kv_cache, self._ahead = KVCache(model.config), None
            self._weights = (weakref.ref(model), adapter)
        if self._ahead and self._ahead.common_prefix(prompt_ids) > self._kv_cache.common_prefix(prompt_ids):
            self._kv_cache, self._ahead = self._ahead, None
        return self._kv_cache

    def _decode(
        self,
        runner: _Runner,
        logits: torch.Tensor,
        prompt_ids: Sequence[int],
        room: int,
        config: GenerationConfig,
        cancel: CancelToken,
        reply: Reply,
    ) -> Iterator[EngineEvent]:
        """Token after token until something ends it. ``logits``: (V,) after the last token of the prompt."""
        model_config = getattr(runner.model, "generation_config", None)
        sampler = Sampler(resolve_sampling(config, model_config), config.seed, prompt_ids, logits)
        end_ids = _end_ids(model_config, self._loaded.tokenizer).union(config.stop_token_ids)
        detokenizer = make_detokenizer(self._loaded.tokenizer)
        stops = StopStrings(config.stop)
        limit = min(config.max_new_tokens, room)
        reason: FinishReason = "cancelled"
        drafting = DraftingFeeder(runner, prompt_ids, limit) if self._drafts and runner.can_draft else None
        try:
            while not cancel.requested:
                token = sampler.next(logits)
                token_id = int(token)
                ended = token_id in end_ids
                text = "" if ended else stops.feed(detokenizer.feed(token_id))
                yield reply.add(token_id, text, _logprobs(logits, token_id, config.logprobs))
                if ended or stops.found:
                    reason = "stop"
                    break
                if len(reply.token_ids) >= limit:
                    reason = "length" if limit == config.max_new_tokens else "context"
                    break
                if not cancel.requested:
                    logits = drafting.step(token_id) if drafting else runner.step(token, token_id)
        finally:
            if drafting is not None:
                drafting.settle()
        held = stops.flush()
        if held:
            yield reply.add(None, held)
        yield reply.finished(reason)


class _Runner:
    """Feeds tokens to the model and keeps the KV cache and its token ids in step."""

    def __init__(self, model: Any, kv_cache: KVCache) -> None:
        self.model = model
        self.cached_tokens = 0
        self._kv_cache = kv_cache
        self._device = model.get_input_embeddings().weight.device
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        parameters = inspect.signature(base.forward).parameters
        if "past_key_values" not in parameters and "cache_params" not in parameters:
            raise EngineError(
                f"{type(base).__name__} has no KV cache that can be used.", hint="Choose another model for chatting."
            )
        self._cache_name = "past_key_values" if "past_key_values" in parameters else "cache_params"
        # use_cache is explicit: a trainer leaves `config.use_cache = False` behind.
        self._options: dict[str, Any] = {"use_cache": True, "return_dict": True}
        self._keeps_logits = "logits_to_keep" in parameters

    def prefill(
        self, prompt_ids: Sequence[int], cancel: CancelToken
    ) -> Generator[PrefillProgress, None, torch.Tensor | None]:
        """Read what is new in a prompt.

        Yields:
            How far it is, before and after each chunk.

        Returns:
            The logits (V,) after the last token; ``None`` when it was cancelled.
        """
        self.cached_tokens = self._kv_cache.keep_prefix_of(prompt_ids)
        total = len(prompt_ids)
        yield PrefillProgress(self.cached_tokens, total, self.cached_tokens)
        chunk = _CHUNK_TOKENS_CPU if self._device.type == "cpu" else _CHUNK_TOKENS_GPU
        if not self._kv_cache.extensible:
            chunk = total
        logits: torch.Tensor | None = None
        for start in range(self.cached_tokens, total, chunk):
            if cancel.requested:
                return None
            ids = list(prompt_ids[start : start + chunk])
            logits = self._forward(torch.tensor([ids], device=self._device), ids)[-1]
            yield PrefillProgress(start + len(ids), total, self.cached_tokens)
        return logits

    def step(self, token: torch.Tensor, token_id: int) -> torch.Tensor:
        """Feed one token () and get the logits (V,) after it."""
        return self._forward(token.view(1, 1), [token_id])[-1]

    @property
    def can_draft(self) -> bool:
        """Whether several tokens can be fed on trial, and come out as they would one by one.

        With 16 bits the rounding of a pass over several tokens is another one, and could change what is said.
        """
        return self.model.dtype == torch.float32 and self._kv_cache.stays_croppable

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """Feed tokens (t,) and get the logits (t, V) after each of them."""
        return self._forward(torch.tensor([list(ids)], device=self._device), list(ids), len(ids))

    def forget(self, count: int) -> None:
        """Take the last tokens out of the KV cache."""
        self._kv_cache.cut(count)

    # A decorator and not a block in the generator: a generator that yields inside such a block leaves its caller in it.
    @torch.inference_mode()
    def _forward(self, input_ids: torch.Tensor, ids: list[int], wanted: int = 1) -> torch.Tensor:
        """input_ids: (1, t), the same tokens as ``ids``. Returns the logits (wanted, V) after the last of them."""
        options = {**self._options, self._cache_name: self._kv_cache.past_key_values}
        if self._keeps_logits:
            options["logits_to_keep"] = wanted
        output = self.model(input_ids=input_ids, **options)
        self._kv_cache.token_ids += ids
        logits: torch.Tensor = output.logits[0, -wanted:]
        return logits


def _logprobs(logits: torch.Tensor, token_id: int, count: int | None) -> TokenLogprobs | None:
    """Of a token (logits: (V,) before it) and of the likeliest ones, if asked for."""
    if count is None:
        return None
    told = torch.log_softmax(logits.float(), dim=-1)
    best = told.topk(min(count, len(told)))
    return TokenLogprobs(
        token_id, float(told[token_id]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    )


def _end_ids(model_config: Any, tokenizer: Any) -> frozenset[int]:
    """Every token that ends a reply: those of the generation config (one, several or none) and the tokenizer's."""
    named = getattr(model_config, "eos_token_id", None)
    ids = [*named] if isinstance(named, (list, tuple)) else [named]
    return frozenset(i for i in (*ids, tokenizer.eos_token_id) if i is not None)


def _engine_error(err: RuntimeError | MemoryError, tokens: int) -> EngineError:
    text = str(err).strip().split("\n", 1)[0]
    # torch reports a failed allocation on the CPU as a plain RuntimeError.
    if isinstance(err, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
        traceback.clear_frames(err.__traceback__)  # its frames hold the tensors that did not fit
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return EngineError(
            f"Out of memory while generating, {tokens} tokens into the context.",
            hint="Shorten the conversation, or load the model with --max-context or a smaller quantization.",
        )
    return EngineError(f"The model failed while generating: {text}", hint="The next prompt starts with a fresh cache.")
