"""Loading is a transaction: the old model stays until the new one is ready, and memory really goes down."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from llmmagic import LoadConfig, Session
from llmmagic.core.errors import ConfigError, ModelLoadError, ModelMemoryError, ModelNotLoadedError, NetworkError
from llmmagic.core.events import Cancelled, LoadEvent, LoadFinished, Notice
from llmmagic.core.models.tiny import save_tiny


def test_loading_the_same_again_does_nothing(session: Session) -> None:
    model = session.model
    finished = session.load("tiny-random").wait()
    assert isinstance(finished, LoadFinished)
    assert finished.reused
    assert session.model is model


def test_force_loads_anew(session: Session) -> None:
    model = session.model
    finished = session.load("tiny-random", force=True).wait()
    assert isinstance(finished, LoadFinished)
    assert not finished.reused
    assert session.model is not model


def test_a_failed_load_leaves_the_old_model(session: Session, tmp_path: Path) -> None:
    model = session.model
    broken = save_tiny(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors' cannot be read"):
        session.load(str(broken)).wait()
    with pytest.raises(NetworkError, match="no/such-model-at-all"):
        session.load("no/such-model-at-all").wait()
    assert session.model is model
    assert session.ask("Hello", max_new_tokens=2) is not None


def test_another_model_takes_the_place_of_the_first(session: Session, tmp_path: Path) -> None:
    old = weakref.ref(session.model)
    session.load(str(save_tiny(tmp_path / "other", seed=7))).wait()
    gc.collect()
    assert old() is None


def test_memory_for_one_model_only_is_said_before_the_old_one_goes(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "other", seed=7)
    old = weakref.ref(session.model)
    held = session.info
    assert held is not None
    # Memory that is there only once the first model is gone: the tiny model's estimate is far below this much.
    small, enough = 10, 10 * 2**30
    monkeypatch.setattr("llmmagic.core.models.load.free_memory_bytes", lambda device: small if old() else enough)
    monkeypatch.setattr("llmmagic.core.models.plan.LoadPlan.peak_bytes", property(lambda plan: held.memory_bytes))
    events: list[LoadEvent] = list(session.load(str(folder)))
    notices = [event for event in events if isinstance(event, Notice) and event.topic == "memory"]
    assert [notice.level for notice in notices] == ["warning"]
    assert "beside tiny-random, which is unloaded first" in notices[0].text
    assert isinstance(events[-1], LoadFinished)


def test_a_model_that_never_fits_leaves_the_old_one(
    session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = save_tiny(tmp_path / "other", seed=7)
    model = session.model
    monkeypatch.setattr("llmmagic.core.models.load.free_memory_bytes", lambda device: 10)
    monkeypatch.setattr("llmmagic.core.models.plan.LoadPlan.peak_bytes", property(lambda plan: 2**40))
    with pytest.raises(ModelMemoryError, match="are free"):
        session.load(str(folder)).wait()
    assert session.model is model


def test_a_cancelled_load_leaves_the_session_as_it_was(session: Session, tmp_path: Path) -> None:
    model = session.model
    operation = session.load(str(save_tiny(tmp_path / "other", seed=7)))
    operation.cancel()
    assert operation.wait() == Cancelled("load")
    assert session.model is model


def test_unloading_frees_the_model_and_keeps_the_conversations(session: Session) -> None:
    session.ask("Hello", max_new_tokens=2)
    model = weakref.ref(session.model)
    session.unload()
    gc.collect()
    assert model() is None
    assert session.info is None
    assert len(session.conversation()) == 2
    with pytest.raises(ModelNotLoadedError):
        session.ask("Hello")


def test_a_config_and_settings_do_not_mix() -> None:
    with pytest.raises(ConfigError, match="not with a LoadConfig"):
        Session().load(LoadConfig(model_id="tiny-random"), dtype="float32")


def test_status_says_what_there_is(session: Session) -> None:
    session.ask("Hello", max_new_tokens=4, seed=1)
    status = session.status()
    assert status.model is not None
    assert status.model.model_id == "tiny-random"
    assert status.busy is None
    (name, messages, tokens) = status.conversations[0]
    assert (name, messages, tokens) == ("default", 2, session.window().prompt_tokens)
    assert status.process_memory_bytes > 10**7
