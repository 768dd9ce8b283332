"""The Hub's real client against a Hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.models.fake_hub import COMMIT, FakeHub, fake_hub

# The client reads its address when it is imported, so it runs in a process of its own.
_CHILD = """
import json, sys
from llmmagic.core.errors import LLMMagicError
from llmmagic.core.events import LoadProgress, Notice
from llmmagic.core.models.hub import fetch
from llmmagic.core.operation import CancelToken

for text in sys.argv[1:]:
    repo_id, _, revision = text.partition("@")
    events = []
    try:
        snapshot = fetch(repo_id, revision or None, emit=events.append, cancel=CancelToken())
        result = {"files": sorted(path.name for path in snapshot.folder.iterdir()), "commit": snapshot.commit}
    except LLMMagicError as err:
        result = {"error": type(err).__name__, "message": str(err)}
    result["bytes"] = [(e.done, e.total) for e in events if isinstance(e, LoadProgress)]
    result["topics"] = [e.topic for e in events if isinstance(e, Notice)]
    print(json.dumps(result))
"""
_TOKEN = "hf_thisMustNeverBeShown"


@pytest.fixture
def repos(tiny_copy: Path, tmp_path: Path) -> dict[str, Path]:
    (tiny_copy / "pytorch_model.bin").write_bytes(b"pickle")
    (tiny_copy / "modeling_own.py").write_text("raise SystemExit")
    pickled, gguf = tmp_path / "pickled", tmp_path / "gguf"
    for folder, name in ((pickled, "pytorch_model.bin"), (gguf, "model.Q4_0.gguf")):
        folder.mkdir()
        (folder / name).write_bytes(b"x")
        (folder / "config.json").write_text("{}")
    return {"org/tiny": tiny_copy, "org/pickled": pickled, "org/gguf": gguf}


def ask(hub: FakeHub, home: Path, *names: str, offline: bool = False) -> list[dict[str, object]]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HOME": str(home),
        "HF_TOKEN": _TOKEN,
    }
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *names], env=environment, capture_output=True, text=True, check=True
    )
    assert _TOKEN not in done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_download_then_cache_then_offline(repos: dict[str, Path], tmp_path: Path) -> None:
    with fake_hub(repos) as hub:
        first, again = ask(hub, tmp_path / "hf", "org/tiny", f"org/tiny@{COMMIT}")
        fetched = [line for line in hub.requests if line.startswith("GET /org")]
        (offline,) = ask(hub, tmp_path / "hf", "org/tiny", offline=True)
    expected = ["chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"]
    assert first["files"] == [*expected, "tokenizer.json", "tokenizer_config.json"]  # no pickle, no code
    assert first["commit"] == COMMIT
    size = sum((repos["org/tiny"] / str(name)).stat().st_size for name in first["files"])
    assert first["bytes"][-1] == [size, size]
    assert again["bytes"] == []
    assert len(fetched) == 6
    assert offline["files"] == first["files"]
    assert offline["topics"] == ["hub-offline"]


def test_what_can_go_wrong(repos: dict[str, Path], tmp_path: Path) -> None:
    expected = {
        "org/none": ("ModelNotFoundError", "There is no model 'org/none' on the Hugging Face Hub."),
        "org/tiny@nope": ("ModelNotFoundError", "org/tiny has no revision 'nope'."),
        "org/gated": ("ModelLoadError", "`hf auth login`"),
        "org/private": ("ModelNotFoundError", "if it is private, run `hf auth login`"),
        "org/down": ("NetworkError", "the Hugging Face Hub cannot be reached"),
        "org/pickled": ("ModelLoadError", "no safetensors weights, only pytorch_model.bin. Pickle files can run any"),
        "org/gguf": ("ModelLoadError", "only model.Q4_0.gguf. Give the path of that file itself."),
    }
    with fake_hub(repos) as hub:
        hub.errors = {"org/gated": (403, "GatedRepo"), "org/private": (401, "RepoNotFound"), "org/down": (503, "")}
        results = ask(hub, tmp_path / "hf", *expected)
    for result, (error, text) in zip(results, expected.values(), strict=True):
        assert result["error"] == error
        assert text in str(result["message"])
        assert "\n" not in str(result["message"])


def test_a_broken_off_download_is_not_taken_for_a_model(repos: dict[str, Path], tmp_path: Path) -> None:
    folder = repos["org/tiny"]
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with fake_hub(repos) as hub:
        ask(hub, tmp_path / "hf", "org/tiny")
        (offline,) = ask(hub, tmp_path / "hf", "org/tiny", offline=True)
    assert offline["error"] == "NetworkError"
