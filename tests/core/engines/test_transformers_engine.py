"""The engine's events: what ends a reply, what a cancel does, what an error leaves behind."""

from __future__ import annotations

import copy
import inspect
import time
from typing import Any

import pytest
import torch

from llmmagic.core.config import GenerationConfig
from llmmagic.core.engines import transformers as engine_module
from llmmagic.core.engines.base import Capabilities, Engine
from llmmagic.core.engines.transformers import TransformersEngine
from llmmagic.core.errors import ContextOverflowError, EngineError
from llmmagic.core.events import EngineEvent, GenerationFinished, PrefillProgress, TextDelta
from llmmagic.core.operation import CancelToken
from tests.core.engines.conftest import as_loaded

PROMPT = list(b"What is Bursitis?")
GREEDY = GenerationConfig(max_new_tokens=20, temperature=0)


def run(engine: TransformersEngine, prompt: list[int], config: GenerationConfig) -> list[EngineEvent]:
    return list(engine.generate(prompt, config, CancelToken()))


def finished(events: list[EngineEvent]) -> GenerationFinished:
    last = events[-1]
    assert isinstance(last, GenerationFinished)
    return last


def scripted(model: Any, monkeypatch: pytest.MonkeyPatch, reply: list[int], prompt_tokens: int) -> None:
    """Make the model say these tokens, whatever it is asked, by putting all weight on the next of them."""
    forward = type(model).forward

    def speak(self: Any, input_ids: torch.Tensor, past_key_values: Any = None, **kwargs: Any) -> Any:
        output = forward(self, input_ids=input_ids, past_key_values=past_key_values, **kwargs)
        said = past_key_values.get_seq_length() - prompt_tokens
        output.logits[:] = -100.0
        output.logits[..., reply[max(said, 0)]] = 100.0
        return output

    speak.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(type(model), "forward", speak)


def test_it_is_an_engine(engine: TransformersEngine) -> None:
    assert isinstance(engine, Engine)
    assert (engine.name, engine.context_window) == ("transformers", 2048)
    assert engine.capabilities == Capabilities(adapters=True, training=True, logprobs=True)


def test_events_add_up(engine: TransformersEngine) -> None:
    events = run(engine, PROMPT, GREEDY)
    last = finished(events)
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert "".join(delta.text for delta in deltas) == last.text
    assert tuple(i for delta in deltas for i in delta.token_ids) == last.token_ids
    assert [event for event in events if isinstance(event, PrefillProgress)] == [
        PrefillProgress(0, len(PROMPT), 0),
        PrefillProgress(len(PROMPT), len(PROMPT), 0),
    ]
    stats = last.stats
    assert (stats.prompt_tokens, stats.cached_tokens, stats.completion_tokens) == (len(PROMPT), 0, len(last.token_ids))
    assert 0 < stats.time_to_first_token_s <= stats.duration_s
    assert stats.tokens_per_s > 0


def test_greedy_reply_is_that_of_generate(engine: TransformersEngine, model: Any) -> None:
    want = model.generate(torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False)[0, len(PROMPT) :].tolist()
    assert list(finished(run(engine, PROMPT, GREEDY)).token_ids) == want


def test_same_seed_same_reply_cached_or_not(engine: TransformersEngine) -> None:
    config = GenerationConfig(max_new_tokens=30, seed=11, temperature=1.0)
    first = finished(run(engine, PROMPT, config))
    again = finished(run(engine, PROMPT, config))
    assert again.token_ids == first.token_ids
    assert again.stats.cached_tokens == len(PROMPT) - 1
    other = finished(run(engine, PROMPT, GenerationConfig(max_new_tokens=30, seed=12, temperature=1.0)))
    assert other.token_ids != first.token_ids


def test_without_a_seed_replies_differ_and_the_global_random_state_is_not_touched(engine: TransformersEngine) -> None:
    config = GenerationConfig(max_new_tokens=30, temperature=1.0)
    torch.manual_seed(3)
    replies = {finished(run(engine, PROMPT, config)).token_ids for _ in range(3)}
    assert len(replies) == 3
    assert float(torch.rand(())) == float(torch.rand((), generator=torch.Generator().manual_seed(3)))


def test_length_ends_a_reply(engine: TransformersEngine) -> None:
    last = finished(run(engine, PROMPT, GenerationConfig(max_new_tokens=3, temperature=0)))
    assert (last.finish_reason, len(last.token_ids)) == ("length", 3)


def test_the_context_window_is_a_hard_limit(model: Any, tokenizer: Any) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer, context_window=len(PROMPT) + 5))
    last = finished(run(engine, PROMPT, GREEDY))
    assert (last.finish_reason, len(last.token_ids)) == ("context", 5)
    exact = finished(run(engine, PROMPT, GenerationConfig(max_new_tokens=5, temperature=0)))
    assert exact.finish_reason == "length"


def test_a_prompt_that_fills_the_window_is_refused_with_figures(model: Any, tokenizer: Any) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer, context_window=17))
    with pytest.raises(ContextOverflowError, match="17 tokens and the context window holds 17") as caught:
        run(engine, PROMPT, GREEDY)
    assert (caught.value.needed_tokens, caught.value.context_window) == (18, 17)


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([3, 259], r"outside 0\.\.258"), ([-1], "outside")])
def test_prompts_that_cannot_be_read_are_refused(engine: TransformersEngine, prompt: list[int], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        run(engine, prompt, GREEDY)


def test_every_end_token_of_the_generation_config_ends_a_reply(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer))
    monkeypatch.setattr(model.generation_config, "eos_token_id", [88, 89])
    for end in (88, 89, tokenizer.eos_token_id):
        with monkeypatch.context() as patch:
            scripted(model, patch, [40, 41, end, 42, 43], len(PROMPT))
            last = finished(run(engine, PROMPT, GREEDY))
        assert (last.token_ids, last.finish_reason) == ((40, 41, end), "stop")
        assert last.text == tokenizer.decode([40, 41])
        engine.reset()


def test_stop_tokens_of_the_caller_end_a_reply_too(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(model, monkeypatch, [40, 41, 90, 42], len(PROMPT))
    engine = TransformersEngine(as_loaded(model, tokenizer))
    last = finished(run(engine, PROMPT, GenerationConfig(max_new_tokens=20, temperature=0, stop_token_ids=(90,))))
    assert (last.token_ids, last.finish_reason, last.text) == ((40, 41, 90), "stop", tokenizer.decode([40, 41]))


def test_a_stop_string_ends_a_reply_and_is_not_part_of_it(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reply = tokenizer.encode("All well. User: what")
    scripted(model, monkeypatch, reply, len(PROMPT))
    engine = TransformersEngine(as_loaded(model, tokenizer))
    events = run(engine, PROMPT, GenerationConfig(max_new_tokens=20, temperature=0, stop=("User:", "\n\n")))
    last = finished(events)
    assert (last.text, last.finish_reason) == ("All well. ", "stop")
    assert tokenizer.decode(last.token_ids) == "All well. User:"
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "All well. "


def test_what_was_held_back_for_a_stop_string_comes_in_the_end(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(model, monkeypatch, tokenizer.encode("Ask a User"), len(PROMPT))
    engine = TransformersEngine(as_loaded(model, tokenizer))
    events = run(engine, PROMPT, GenerationConfig(max_new_tokens=10, temperature=0, stop=("User:",)))
    assert events[-2] == TextDelta("User")
    assert finished(events).text == "Ask a User"


def test_an_emoji_comes_as_one_character(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(model, monkeypatch, tokenizer.encode("a👍b👍"), len(PROMPT))
    engine = TransformersEngine(as_loaded(model, tokenizer))
    events = run(engine, PROMPT, GenerationConfig(max_new_tokens=9, temperature=0))
    texts = [event.text for event in events if isinstance(event, TextDelta)]
    assert texts == ["a", "", "", "", "👍", "b", "", "", ""]
    assert finished(events).text == "a👍b"  # the last, unfinished one is left out


def test_repetition_penalty_counts_the_prompt_too(engine: TransformersEngine, model: Any) -> None:
    config = GenerationConfig(max_new_tokens=15, temperature=0, repetition_penalty=1.4)
    want = model.generate(torch.tensor([PROMPT]), max_new_tokens=15, do_sample=False, repetition_penalty=1.4)
    assert list(finished(run(engine, PROMPT, config)).token_ids) == want[0, len(PROMPT) :].tolist()


def test_cancel_is_heard_within_a_token(engine: TransformersEngine) -> None:
    cancel = CancelToken()
    events = []
    for event in engine.generate(PROMPT, GenerationConfig(max_new_tokens=500, temperature=0), cancel):
        events.append(event)
        if isinstance(event, TextDelta) and len(events) == 6:
            cancel.request()
    last = finished(events)
    assert (last.finish_reason, len(last.token_ids)) == ("cancelled", 4)


def test_cancel_is_heard_between_chunks_of_the_prompt(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_CHUNK_TOKENS_CPU", 10)
    prompt = list(range(95))
    cancel = CancelToken()
    events = []
    for event in engine.generate(prompt, GREEDY, cancel):
        events.append(event)
        if isinstance(event, PrefillProgress) and event.done_tokens == 30:
            cancel.request()
    assert (finished(events).finish_reason, finished(events).token_ids, finished(events).text) == ("cancelled", (), "")
    # What was read is not read again.
    resumed = run(engine, prompt, GREEDY)
    assert [e.done_tokens for e in resumed if isinstance(e, PrefillProgress)] == [30, 40, 50, 60, 70, 80, 90, 95]


def test_a_loop_that_is_left_early_leaves_a_consistent_cache(engine: TransformersEngine) -> None:
    for event in engine.generate(PROMPT, GREEDY, CancelToken()):
        if isinstance(event, TextDelta):
            break
    assert not torch.is_inference_mode_enabled()
    assert finished(run(engine, PROMPT, GREEDY)).stats.cached_tokens == len(PROMPT) - 1


def test_the_caller_is_not_left_in_inference_mode(engine: TransformersEngine) -> None:
    for _ in engine.generate(PROMPT, GREEDY, CancelToken()):
        assert not torch.is_inference_mode_enabled()


def test_a_trained_model_is_put_back_into_evaluation_and_uses_its_cache(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TransformersEngine(as_loaded(model, tokenizer))
    want = finished(run(engine, PROMPT, GREEDY)).token_ids
    model.train()
    monkeypatch.setattr(model.config, "use_cache", False)  # as a trainer leaves it
    engine.reset()
    assert finished(run(engine, PROMPT, GREEDY)).token_ids == want
    assert not model.training
    assert finished(run(engine, PROMPT, GREEDY)).stats.cached_tokens == len(PROMPT) - 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "Out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "Out of memory"),
        (MemoryError(), "Out of memory"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied\nmore"), "failed while generating: mat1 and mat2"),
    ],
)
def test_an_error_in_the_model_drops_the_cache_and_says_what_to_do(
    engine: TransformersEngine, model: Any, error: Exception, message: str
) -> None:
    calls = 0

    def fail_later(_module: Any, _args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:  # in the middle of a forward some layers have the new token and others have not
            raise error

    want = finished(run(engine, PROMPT, GREEDY)).token_ids
    engine.reset()
    hook = model.model.layers[1].register_forward_pre_hook(fail_later)
    with pytest.raises(EngineError, match=message) as caught:
        run(engine, PROMPT, GREEDY)
    hook.remove()
    assert caught.value.hint
    assert caught.value.__cause__ is error
    after = finished(run(engine, PROMPT, GREEDY))
    assert (after.token_ids, after.stats.cached_tokens) == (want, 0)


def test_another_adapter_or_model_starts_with_an_empty_cache(model: Any, tokenizer: Any) -> None:
    loaded = as_loaded(model, tokenizer)
    engine = TransformersEngine(loaded)
    run(engine, PROMPT, GREEDY)
    loaded.info.adapter = "medical"
    assert finished(run(engine, PROMPT, GREEDY)).stats.cached_tokens == 0
    assert finished(run(engine, PROMPT, GREEDY)).stats.cached_tokens == len(PROMPT) - 1
    loaded.info.adapter = None
    assert finished(run(engine, PROMPT, GREEDY)).stats.cached_tokens == 0
    engine.reset()
    assert finished(run(engine, PROMPT, GREEDY)).stats.cached_tokens == 0


# PEFT asks the model by a name that transformers has just renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_generated_with(model: Any, tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    strong = LoraConfig(r=8, lora_alpha=800, init_lora_weights=False, target_modules=["q_proj", "v_proj", "down_proj"])
    tuned = get_peft_model(copy.deepcopy(model), strong)
    loaded = as_loaded(model, tokenizer)
    engine = TransformersEngine(loaded)
    base = finished(run(engine, PROMPT, GREEDY)).token_ids
    loaded.model = tuned
    want = tuned.generate(input_ids=torch.tensor([PROMPT]), max_new_tokens=20, do_sample=False)[0, len(PROMPT) :]
    reply = finished(run(engine, PROMPT, GREEDY))
    assert list(reply.token_ids) == want.tolist()
    assert reply.token_ids != base


def test_close_frees_the_cache(engine: TransformersEngine) -> None:
    run(engine, PROMPT, GREEDY)
    engine.close()
    assert engine._kv_cache is None


def test_a_model_without_logits_to_keep_gives_the_same(engine: TransformersEngine, model: Any) -> None:
    want = finished(run(engine, PROMPT, GREEDY)).token_ids
    forward = type(model).forward

    def old_forward(self: Any, input_ids: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        return forward(self, input_ids=input_ids, past_key_values=past_key_values, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", old_forward)
        engine.reset()
        assert finished(run(engine, PROMPT, GREEDY)).token_ids == want


def test_a_model_without_a_cache_is_refused(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model), "forward", lambda self, input_ids: None)
    with pytest.raises(EngineError, match="LlamaForCausalLM has no KV cache"):
        run(TransformersEngine(as_loaded(model, tokenizer)), PROMPT, GREEDY)


def test_a_long_conversation_is_not_read_again(engine: TransformersEngine) -> None:
    history = [i % 250 for i in range(1500)]
    run(engine, history, GenerationConfig(max_new_tokens=4, temperature=0))
    start = time.perf_counter()
    last = finished(run(engine, [*history, 1, 2, 3], GenerationConfig(max_new_tokens=1, temperature=0)))
    assert last.stats.cached_tokens >= 1500
    assert time.perf_counter() - start < 2
