"""The KV cache holds exactly what it says: against a fresh forward over the whole sequence, for every token.

A random model's text cannot show a wrong cache, so ids, lengths and logits are compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines import transformers as engine_module
from llmmagic.core.engines.kv_cache import KVCache
from llmmagic.core.engines.sampling import Sampler
from llmmagic.core.engines.transformers import TransformersEngine
from llmmagic.core.events import GenerationFinished, PrefillProgress
from llmmagic.core.operation import CancelToken
from tests.core.engines.conftest import as_loaded

WORDS = ["why", "the", "Bursitis", "é", "👍", "knee", "and", "42", "\n", "pain", "what is", "a"]


@contextmanager
def recorded_logits() -> Iterator[list[torch.Tensor]]:
    """The logits (V,) that each token was chosen from."""
    seen: list[torch.Tensor] = []
    choose = Sampler.next

    def record(sampler: Sampler, logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits.clone())
        return choose(sampler, logits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampler, "next", record)
        yield seen


@torch.inference_mode()
def fresh_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """(T, V) of one forward over everything, without any cache."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits


def cache_lengths(engine: TransformersEngine) -> set[int]:
    cache = engine._kv_cache
    assert cache is not None
    return {layer.get_seq_length() for layer in cache.past_key_values.layers}


def held_ids(engine: TransformersEngine) -> list[int]:
    cache = engine._kv_cache
    assert cache is not None
    return cache.token_ids


def check_turn(
    engine: TransformersEngine,
    model: Any,
    prompt: list[int],
    config: GenerationConfig,
    *,
    stop_after: int | None = None,
) -> GenerationFinished:
    """Generate a reply and compare everything with a fresh forward.

    Args:
        engine: With whatever is in its cache.
        model: The engine's.
        prompt: Token ids.
        config: Settings.
        stop_after: Cancel after that many events.
    """
    before = list(held_ids(engine)) if engine._kv_cache else []
    cancel = CancelToken()
    events = []
    with recorded_logits() as logits:
        for event in engine.generate(prompt, config, cancel):
            events.append(event)
            if stop_after is not None and len(events) >= stop_after:
                cancel.request()
    last = events[-1]
    assert isinstance(last, GenerationFinished)
    first = events[0]
    assert isinstance(first, PrefillProgress)
    shorter = min(len(before), len(prompt))
    common = next((i for i in range(shorter) if before[i] != prompt[i]), shorter)
    assert first.cached_tokens == min(common, len(prompt) - 1)

    replied = list(last.token_ids)
    sequence = prompt + replied
    if replied:
        assert held_ids(engine) == sequence[:-1]
        want = fresh_logits(model, sequence[:-1])[len(prompt) - 1 :]
        got = torch.stack(logits[len(logits) - len(replied) :])
        torch.testing.assert_close(got, want, atol=1e-4, rtol=0)
    else:
        assert held_ids(engine) == prompt[: len(held_ids(engine))]
    assert cache_lengths(engine) == {len(held_ids(engine))}
    return last


def random_conversation(
    engine: TransformersEngine, model: Any, tokenizer: Any, rng: random.Random, *, turns: int, max_new_tokens: int
) -> int:
    """A conversation in which things are said, edited, regenerated and stopped.

    Returns:
        Prompt tokens that did not have to be read again.
    """

    def say() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 25)))

    messages = [{"role": "system", "content": say()}]
    reused = 0
    for _ in range(turns):
        act = rng.choice(["say", "say", "say", "edit", "regenerate", "system"])
        if act == "edit" and len(messages) > 2:
            where = rng.randrange(1, len(messages), 2)
            messages = [*messages[:where], {"role": "user", "content": say()}]
        elif act == "regenerate" and messages[-1]["role"] == "assistant":
            messages.pop()
        else:
            if act == "system":
                messages[0] = {"role": "system", "content": say()}
            messages.append({"role": "user", "content": say()})
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        settings = rng.choice(
            [
                GenerationConfig(max_new_tokens=max_new_tokens, temperature=0),
                GenerationConfig(max_new_tokens=max_new_tokens, seed=rng.randrange(100), top_p=0.9),
                GenerationConfig(max_new_tokens=max_new_tokens, seed=1, repetition_penalty=1.2, stop=("e",)),
            ]
        )
        stop_after = rng.choice([None, None, None, rng.randint(1, 12)])
        last = check_turn(engine, model, prompt, settings, stop_after=stop_after)
        reused += last.stats.cached_tokens
        messages.append({"role": "assistant", "content": last.text})
    return reused


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of a test are short; read them in several chunks all the same."""
    monkeypatch.setattr(engine_module, "_CHUNK_TOKENS_CPU", 48)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("seed", range(20))
def test_cache_equals_a_fresh_forward_in_random_conversations(model: Any, tokenizer: Any, seed: int) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer))
    reused = random_conversation(engine, model, tokenizer, random.Random(seed), turns=6, max_new_tokens=16)
    assert reused > 0


def test_a_prompt_read_ahead_is_gone_on_from_and_the_other_cache_is_let_go(model: Any, tokenizer: Any) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer))
    system, old, kept = list(b"Be brief. "), list(b"Something said long ago. " * 3), list(b"Said last. " * 4)
    greedy = GenerationConfig(max_new_tokens=6, temperature=0)
    first = check_turn(engine, model, system + old + kept, greedy)
    before = held_ids(engine)

    assert engine.prefill_ahead(system + kept, CancelToken()) == len(system + kept)
    assert held_ids(engine) == before  # nothing of it is lost
    check_turn(engine, model, system + old + kept, greedy)

    trimmed = system + kept + list(b"And now?")
    with recorded_logits() as logits:
        last = list(engine.generate(trimmed, greedy, CancelToken()))[-1]
    assert isinstance(last, GenerationFinished)
    assert last.stats.cached_tokens == len(system + kept)
    assert held_ids(engine) == trimmed + list(last.token_ids[:-1])
    assert cache_lengths(engine) == {len(held_ids(engine))}
    want = fresh_logits(model, held_ids(engine))[len(trimmed) - 1 :]
    torch.testing.assert_close(torch.stack(logits[-len(last.token_ids) :]), want, atol=1e-4, rtol=0)
    assert engine._ahead is None
    assert first.token_ids


def test_reading_ahead_goes_on_from_what_was_read_and_stops_at_a_piece(model: Any, tokenizer: Any) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer))
    ids = [5 + i % 90 for i in range(100)]
    cancel = CancelToken()
    fed: list[int] = []

    def count(_module: Any, _args: Any, kwargs: dict[str, Any], _output: Any) -> None:
        fed.append(kwargs["input_ids"].shape[1])
        if len(fed) == 2:
            cancel.request()

    hook = model.register_forward_hook(count, with_kwargs=True)
    try:
        assert engine.prefill_ahead(ids, cancel) == sum(fed) < 100
        assert len(fed) == 2
        assert engine.prefill_ahead(ids, CancelToken()) == sum(fed) == 100
    finally:
        hook.remove()
    last = list(engine.generate([*ids, 7], GenerationConfig(max_new_tokens=1), CancelToken()))[-1]
    assert isinstance(last, GenerationFinished)
    assert last.stats.cached_tokens == 100
    assert engine.prefill_ahead(ids, CancelToken()) == 0  # the last prompt holds it already


def test_what_was_read_ahead_is_dropped_with_the_weights_and_for_want_of_memory(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer))
    greedy = GenerationConfig(max_new_tokens=2, temperature=0)
    list(engine.generate(list(b"One"), greedy, CancelToken()))
    assert engine.prefill_ahead(list(b"Another"), CancelToken()) == 7
    engine.reset()
    assert check_turn(engine, model, list(b"Another one"), greedy).stats.cached_tokens == 0
    assert engine.prefill_ahead(list(b"Yet another"), CancelToken()) == 11
    engine._loaded.info.adapter = "other"
    last = list(engine.generate(list(b"Yet another one"), greedy, CancelToken()))[-1]
    assert isinstance(last, GenerationFinished)
    assert last.stats.cached_tokens == 0
    monkeypatch.setattr(engine_module, "free_memory_bytes", lambda device: 4 * 1024 * 10)
    # 2 layers, keys and values, 2 heads of 16 float32: 512 bytes a token; a quarter of what is free is 20 of them.
    assert engine.prefill_ahead([1] * 21, CancelToken()) == 0
    assert engine.prefill_ahead([1] * 20, CancelToken()) == 20


@pytest.fixture(scope="module")
def real(demo_folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(demo_folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(demo_folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("seed", range(20))
def test_cache_equals_a_fresh_forward_on_the_real_model(real: tuple[Any, Any], seed: int) -> None:
    model, tokenizer = real
    engine = TransformersEngine(as_loaded(model, tokenizer))
    reused = random_conversation(engine, model, tokenizer, random.Random(seed), turns=4, max_new_tokens=8)
    assert reused > 0


SMALL = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "eos_token_id": 258,
    "bos_token_id": 257,
    "pad_token_id": 256,
}


def make(model_class: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config).eval()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("seed", range(3))
def test_a_model_with_query_norms_and_no_grouping(tokenizer: Any, seed: int) -> None:
    model = make(Qwen3ForCausalLM, Qwen3Config(**{**SMALL, "num_key_value_heads": 4}))
    engine = TransformersEngine(as_loaded(model, tokenizer))
    assert random_conversation(engine, model, tokenizer, random.Random(seed), turns=5, max_new_tokens=8) > 0


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (MistralForCausalLM, MistralConfig(**SMALL, sliding_window=64)),
        (
            Gemma3ForCausalLM,
            Gemma3TextConfig(**SMALL, sliding_window=64, layer_types=["sliding_attention", "full_attention"]),
        ),
    ],
)
def test_sliding_windows_go_on_and_start_anew_where_they_cannot_be_cut(
    tokenizer: Any, seed: int, model_class: Any, config: Any
) -> None:
    model = make(model_class, config)
    engine = TransformersEngine(as_loaded(model, tokenizer))
    rng = random.Random(seed)
    prompt = [rng.randrange(200) for _ in range(40)]
    greedy = GenerationConfig(max_new_tokens=8, temperature=0)

    def turn(prompt: list[int]) -> GenerationFinished:
        with recorded_logits() as logits:
            last = list(engine.generate(prompt, greedy, CancelToken()))[-1]
        assert isinstance(last, GenerationFinished)
        sequence = prompt + list(last.token_ids)
        want = fresh_logits(model, sequence[:-1])[len(prompt) - 1 :]
        torch.testing.assert_close(torch.stack(logits[-len(last.token_ids) :]), want, atol=1e-4, rtol=0)
        return last

    first = turn(prompt)
    short_cut = turn([*prompt[:30], 250, 251, 252])  # the window is not full yet: cut
    assert short_cut.stats.cached_tokens == 30
    longer = [*prompt[:30], 250, 251, 252, *short_cut.token_ids, *(rng.randrange(200) for _ in range(90))]
    extended = turn(longer)  # goes on, and fills the window
    assert extended.stats.cached_tokens == 33 + len(short_cut.token_ids) - 1
    again = turn([*longer, *extended.token_ids, 1, 2])
    assert again.stats.cached_tokens == len(longer) + len(extended.token_ids) - 1
    assert turn([*longer[:100], 250]).stats.cached_tokens == 0  # what fell out of the window is gone
    assert first.token_ids


def test_recurrent_state_is_computed_anew_for_each_prompt(tokenizer: Any) -> None:
    config = MambaConfig(
        vocab_size=259, hidden_size=32, state_size=4, num_hidden_layers=2, eos_token_id=258, bos_token_id=257,
        pad_token_id=256,
    )  # fmt: skip
    model = make(MambaForCausalLM, config)
    engine = TransformersEngine(as_loaded(model, tokenizer))
    prompt = list(range(60))
    for ids in (prompt, [*prompt, 1, 2, 3], prompt[:20]):
        with recorded_logits() as logits:
            last = list(engine.generate(ids, GenerationConfig(max_new_tokens=6, temperature=0), CancelToken()))[-1]
        assert isinstance(last, GenerationFinished)
        assert last.stats.cached_tokens == 0
        want = fresh_logits(model, ids + list(last.token_ids[:-1]))[len(ids) - 1 :]
        torch.testing.assert_close(torch.stack(logits[-len(last.token_ids) :]), want, atol=1e-4, rtol=0)


def test_growing_buffers_keep_what_was_in_them() -> None:
    config = LlamaConfig(**SMALL)
    cache = KVCache(config)
    torch.manual_seed(0)
    pieces = [torch.randn(1, 2, t, 8) for t in (1, 3, 250, 1, 1, 700, 1)]
    for piece in pieces:
        keys, values = cache.past_key_values.update(piece, -piece, 0)
    whole = torch.cat(pieces, dim=-2)
    assert torch.equal(keys, whole)
    assert torch.equal(values, -whole)


def test_writing_after_a_cut_replaces_the_old_tokens() -> None:
    cache = KVCache(LlamaConfig(**SMALL))
    old, new = torch.randn(1, 2, 10, 8), torch.randn(1, 2, 3, 8)
    for layer in (0, 1):
        cache.past_key_values.update(old, old, layer)
    cache.token_ids = list(range(10))
    assert cache.keep_prefix_of([0, 1, 2, 3, 99, 5]) == 4
    assert cache.token_ids == [0, 1, 2, 3]
    keys, _ = cache.past_key_values.update(new, new, 0)
    assert torch.equal(keys, torch.cat([old[:, :, :4], new], dim=-2))


def test_at_least_one_token_of_a_prompt_is_always_read() -> None:
    cache = KVCache(LlamaConfig(**SMALL))
    for layer in (0, 1):
        cache.past_key_values.update(torch.randn(1, 2, 4, 8), torch.randn(1, 2, 4, 8), layer)
    cache.token_ids = [1, 2, 3, 4]
    assert cache.keep_prefix_of([1, 2, 3, 4]) == 3
    assert cache.keep_prefix_of([1]) == 0
