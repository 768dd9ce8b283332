"""The llama.cpp engine on the tiny model's own numbers, against the transformers engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.chat.template import ChatTemplate
from llmmagic.core.config import GenerationConfig, LoadConfig
from llmmagic.core.engines import llama_cpp_loader
from llmmagic.core.engines.base import Capabilities, Engine
from llmmagic.core.engines.gguf_file import find_gguf
from llmmagic.core.engines.llama_cpp import LlamaCppEngine, read_advice
from llmmagic.core.engines.llama_cpp_loader import chats_faster
from llmmagic.core.engines.opened import open_engine
from llmmagic.core.engines.transformers import TransformersEngine
from llmmagic.core.errors import ConfigError, ContextOverflowError, EngineError, ModelLoadError, RemoteCodeError
from llmmagic.core.events import EngineEvent, GenerationFinished, PrefillProgress, TextDelta
from llmmagic.core.export.gguf_facts import GGUFFacts, read_facts
from llmmagic.core.operation import CancelToken
from tests.core.engines.conftest import as_loaded
from tests.core.engines.tiny_gguf import write_tiny_gguf

pytest.importorskip("xllamacpp")

GREEDY = GenerationConfig(max_new_tokens=24, temperature=0)
PROMPT = list(b"What is Bursitis?")


def nothing(_event: object) -> None:
    return


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory, model: Any, tokenizer: Any) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", model, tokenizer)


@pytest.fixture(scope="module")
def template(tokenizer: Any) -> ChatTemplate:
    return ChatTemplate.from_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def engine(gguf: Path, template: ChatTemplate) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(gguf, template=template, vocab_size=259, context_window=512)
    yield engine
    engine.close()


def run(engine: Engine, prompt: list[int], config: GenerationConfig) -> list[EngineEvent]:
    return list(engine.generate(prompt, config, CancelToken()))


def finished(engine: Engine, prompt: list[int], config: GenerationConfig) -> GenerationFinished:
    last = run(engine, prompt, config)[-1]
    assert isinstance(last, GenerationFinished)
    return last


def test_it_is_an_engine(engine: LlamaCppEngine) -> None:
    assert isinstance(engine, Engine)
    assert (engine.name, engine.context_window, engine.capabilities) == ("llama.cpp", 512, Capabilities(logprobs=True))


def test_a_file_says_what_is_in_it(gguf: Path) -> None:
    size = gguf.stat().st_size
    assert read_facts(gguf) == GGUFFacts("llama", 90624, 2, 64, 259, "f32", 2048, size)


@pytest.mark.parametrize("prompt", [PROMPT, list(range(200)), [257, 5, 258, 7]])
@pytest.mark.parametrize("config", [GREEDY, replace(GREEDY, repetition_penalty=1.3)])
def test_greedy_replies_are_those_of_transformers(
    engine: LlamaCppEngine, model: Any, tokenizer: Any, prompt: list[int], config: GenerationConfig
) -> None:
    want = finished(TransformersEngine(as_loaded(model, tokenizer, context_window=512)), prompt, config)
    got = finished(engine, prompt, config)
    # Bytes that are no text come with the next character; their ids are then those of the text. So: up to there.
    common = next((i for i, (a, b) in enumerate(zip(got.token_ids, want.token_ids, strict=False)) if a != b), None)
    assert common is None or want.token_ids[common] >= 94
    assert got.finish_reason == want.finish_reason


def test_events_add_up(engine: LlamaCppEngine) -> None:
    events = run(engine, PROMPT, replace(GREEDY, repetition_penalty=1.2))
    last = events[-1]
    assert isinstance(last, GenerationFinished)
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert "".join(delta.text for delta in deltas) == last.text
    assert tuple(i for delta in deltas for i in delta.token_ids) == last.token_ids


def test_the_prefix_is_reused_until_a_reset(engine: LlamaCppEngine) -> None:
    engine.reset()
    assert finished(engine, PROMPT, GREEDY).stats.cached_tokens == 0
    assert finished(engine, PROMPT, GREEDY).stats.cached_tokens == len(PROMPT) - 1
    engine.reset()
    assert finished(engine, PROMPT, GREEDY).stats.cached_tokens == 0


def test_reading_ahead_keeps_the_last_prompt(engine: LlamaCppEngine) -> None:
    engine.reset()
    last, ahead = [5 + i % 80 for i in range(200)], [7 + i % 70 for i in range(150)]
    want = finished(engine, [*ahead, 3], GREEDY).token_ids
    engine.reset()
    finished(engine, last, GREEDY)
    assert engine.prefill_ahead(ahead, CancelToken()) == len(ahead)
    assert finished(engine, [*last, 9], GREEDY).stats.cached_tokens >= len(last)
    again = finished(engine, [*ahead, 3], GREEDY)
    assert (again.stats.cached_tokens, again.token_ids) == (len(ahead), want)
    cancel = CancelToken()
    cancel.request()
    assert engine.prefill_ahead(last, cancel) == 0


def test_a_long_prompt_is_read_with_progress_and_can_be_cancelled(engine: LlamaCppEngine) -> None:
    engine.reset()
    cancel = CancelToken()
    events = []
    for event in engine.generate([i % 90 for i in range(500)], GREEDY, cancel):
        events.append(event)
        if isinstance(event, PrefillProgress) and event.done_tokens:
            cancel.request()
    assert isinstance(events[-1], GenerationFinished)
    assert events[-1].finish_reason == "cancelled"
    assert len(events[-1].token_ids) <= 1


def test_cancel_is_heard_within_a_token(engine: LlamaCppEngine) -> None:
    cancel = CancelToken()
    for event in engine.generate(PROMPT, replace(GREEDY, max_new_tokens=400), cancel):
        if isinstance(event, TextDelta):
            cancel.request()
    assert isinstance(event, GenerationFinished)
    assert event.finish_reason == "cancelled"
    assert len(event.token_ids) < 50


def test_a_loop_that_is_left_early_leaves_a_usable_engine(engine: LlamaCppEngine) -> None:
    for event in engine.generate(PROMPT, replace(GREEDY, max_new_tokens=400), CancelToken()):
        if isinstance(event, TextDelta):
            break
    assert finished(engine, PROMPT, replace(GREEDY, max_new_tokens=3)).finish_reason == "length"


def test_stop_strings_stop_tokens_and_limits(engine: LlamaCppEngine) -> None:
    reply = finished(engine, PROMPT, GREEDY)
    char = reply.text[0]
    stopped = finished(engine, PROMPT, replace(GREEDY, stop=(char,)))
    assert (stopped.text, stopped.finish_reason) == ("", "stop")
    by_id = finished(engine, PROMPT, replace(GREEDY, stop_token_ids=(reply.token_ids[0],)))
    assert (by_id.text, by_id.token_ids, by_id.finish_reason) == ("", reply.token_ids[:1], "stop")
    room = finished(engine, [i % 90 for i in range(508)], GREEDY)
    assert room.finish_reason == "context"
    assert len(room.token_ids) <= 4


def test_same_seed_same_reply_and_top_k_one_is_greedy(engine: LlamaCppEngine) -> None:
    config = GenerationConfig(max_new_tokens=24, temperature=1.0, seed=2**40 + 3)
    assert finished(engine, PROMPT, config).text == finished(engine, PROMPT, config).text
    assert finished(engine, PROMPT, replace(config, top_k=1)).text == finished(engine, PROMPT, GREEDY).text


def test_bad_prompts_are_refused_as_everywhere(engine: LlamaCppEngine) -> None:
    with pytest.raises(ContextOverflowError, match="600 tokens and the context window holds 512"):
        run(engine, [1] * 600, GREEDY)
    with pytest.raises(EngineError, match="outside"):
        run(engine, [259], GREEDY)


def test_a_closed_engine_says_so(gguf: Path, template: ChatTemplate) -> None:
    engine = LlamaCppEngine(gguf, template=template, vocab_size=259, context_window=64)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        run(engine, PROMPT, GREEDY)


@pytest.mark.slow
@pytest.mark.usefixtures("demo_cache")
@pytest.mark.timeout(1200)
def test_the_real_model_in_a_worker_is_chatted_with_at_full_speed() -> None:
    opened = open_engine(LoadConfig(model_id="demo"), worker=True, emit=nothing, cancel=CancelToken())
    assert (opened.info.engine, opened.info.quantization, opened.info.context_window) == ("llama.cpp", "q8_0", 8192)
    ids = opened.template.encode([{"role": "user", "content": "What is the tallest mountain?"}])
    assert "Everest" in finished(opened.engine, ids, GREEDY).text
    opened.engine.close()


def test_what_it_cannot_load_is_refused(tmp_path: Path, template: ChatTemplate) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(ModelLoadError, match=r"broken\.gguf"):
        read_facts(broken)
    with pytest.raises(ModelLoadError, match=r"llama\.cpp cannot load .*broken\.gguf"):
        LlamaCppEngine(broken, template=template, vocab_size=259, context_window=64)
    with pytest.raises(ConfigError, match=r"engine must be one of auto, transformers, llama\.cpp"):
        LoadConfig(model_id="demo", engine="llama")  # type: ignore[arg-type]


def copy_with(folder: Path, target: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    change(config)
    (target / "config.json").write_text(json.dumps(config))
    return target


def test_a_model_with_code_of_its_own_is_not_handed_to_the_converter(tmp_path: Path, tiny_folder: Path) -> None:
    folder = copy_with(tiny_folder, tmp_path / "code", lambda config: config.update(auto_map={"AutoModel": "m.M"}))
    with pytest.raises(RemoteCodeError):
        find_gguf(LoadConfig(model_id=str(folder)), emit=nothing, cancel=CancelToken())


@pytest.mark.parametrize(
    ("changes", "faster"),
    [
        ({}, True),
        ({"model_id": "tiny-random"}, False),
        ({"adapter": "folder"}, True),
        ({"quantization": "nf4"}, False),
        ({"dtype": "bfloat16"}, False),
    ],
)
def test_auto_takes_it_only_where_nothing_speaks_for_transformers(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], faster: bool
) -> None:
    monkeypatch.setattr(llama_cpp_loader, "_MODULES", ("xllamacpp",))
    config = replace(LoadConfig(model_id="demo", device="cpu"), **changes)
    assert chats_faster(config) is faster
    monkeypatch.setattr(llama_cpp_loader, "_MODULES", ("no_such_module",))
    assert not chats_faster(config)


def test_advice_is_read_without_transformers(tmp_path: Path) -> None:
    assert read_advice(tmp_path) is None
    (tmp_path / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6}')
    advice = read_advice(tmp_path)
    assert advice is not None
    assert (advice.do_sample, advice.temperature) == (True, 0.6)


def test_guessing_tokens_changes_none_of_them(gguf: Path, engine: LlamaCppEngine, template: ChatTemplate) -> None:
    plain = LlamaCppEngine(gguf, template=template, vocab_size=259, context_window=512, drafts=False)
    prompt = list(b"one two three four. one two three four. one two three four. one two")
    for config in (GREEDY, replace(GREEDY, temperature=1.0, seed=3), replace(GREEDY, temperature=0.9, top_k=1, seed=4)):
        config = replace(config, max_new_tokens=120)
        engine.reset()
        assert finished(engine, prompt, config).token_ids == finished(plain, prompt, config).token_ids
    plain.close()


def test_log_probabilities_come_with_the_tokens(gguf: Path, template: ChatTemplate, model: Any, tokenizer: Any) -> None:
    engine = LlamaCppEngine(gguf, template=template, vocab_size=259, context_window=512)
    config = replace(GREEDY, logprobs=3, max_new_tokens=8)
    theirs = [event for event in run(engine, PROMPT, config) if isinstance(event, TextDelta) and event.logprobs]
    ours = [
        event
        for event in run(TransformersEngine(as_loaded(model, tokenizer, context_window=512)), PROMPT, config)
        if isinstance(event, TextDelta)
    ]
    assert all(len(event.logprobs) == len(event.token_ids) == 1 for event in ours)
    assert all(event.logprobs[0].top[0] == (event.token_ids[0], event.logprobs[0].logprob) for event in ours)
    assert all([len(event.logprobs[0].top) == 3 for event in (*ours, *theirs)])
    first, same = theirs[0].logprobs[0], ours[0].logprobs[0]
    assert theirs[0].token_ids == ours[0].token_ids
    assert first.logprob == pytest.approx(same.logprob, abs=2e-3)
    assert [token_id for token_id, _ in first.top] == [token_id for token_id, _ in same.top]
    assert not any(event.logprobs for event in run(engine, PROMPT, GREEDY) if isinstance(event, TextDelta))
    engine.close()
