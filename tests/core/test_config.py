"""Configs refuse what is not allowed, with what was given."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmmagic.core import config
from llmmagic.core.config import GenerationConfig, LoadConfig, TrainConfig, replace_known
from llmmagic.core.errors import ConfigError


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (LoadConfig, {"model_id": " "}, "No model was named."),
        (LoadConfig, {"model_id": "demo", "quantization": "nf5"}, "got 'nf5'. Did you mean 'nf4'?"),
        (LoadConfig, {"model_id": "demo", "dtype": "half"}, "dtype must be one of auto, float32, bfloat16, float16"),
        (LoadConfig, {"model_id": "demo", "device": "gpu"}, "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        (LoadConfig, {"model_id": "demo", "device": "cpu:1"}, "got 'cpu:1'"),
        (LoadConfig, {"model_id": "demo", "max_context": 3}, "max_context must be >= 16, got 3"),
        (GenerationConfig, {"temperature": -0.1}, "temperature must be >= 0 and <= 100, got -0.1"),
        (GenerationConfig, {"temperature": float("nan")}, "temperature must be >= 0 and <= 100, got nan"),
        (GenerationConfig, {"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        (GenerationConfig, {"top_p": 0}, "top_p must be > 0 and <= 1, got 0"),
        (GenerationConfig, {"max_new_tokens": 0}, "max_new_tokens must be >= 1, got 0"),
        (GenerationConfig, {"max_new_tokens": 2.5}, "max_new_tokens must be a whole number, got 2.5"),
        (GenerationConfig, {"top_k": True}, "top_k must be a whole number, got True"),
        (GenerationConfig, {"seed": -1}, "seed must be >= 0"),
        (GenerationConfig, {"stop": "END"}, "stop must be a list of non-empty texts, got 'END'"),
        (GenerationConfig, {"stop": ("",)}, "stop must be a list of non-empty texts"),
        (TrainConfig, {"name": "a/b"}, "The adapter's name must be letters, digits"),
        (TrainConfig, {"recipe": "tutoral"}, "Did you mean 'tutorial'?"),
        (GenerationConfig, {"temprature": 1}, "Unknown setting 'temprature'. Did you mean 'temperature'?"),
    ],
)
def test_what_is_refused(cls: type[Any], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace_known(cls, values)
    assert message in str(caught.value)


def test_zero_and_none_are_allowed_where_they_mean_something() -> None:
    settings = GenerationConfig(temperature=0, top_k=0, min_p=0, seed=0, stop=("END",))
    assert (settings.temperature, settings.top_p, settings.stop) == (0, None, ("END",))


def test_folders_follow_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMMAGIC_CACHE_DIR", str(tmp_path / "c"))
    monkeypatch.delenv("LLMMAGIC_DATA_DIR")
    assert config.cache_dir() == tmp_path / "c"
    assert config.data_dir().name == "llmmagic"


def test_config_and_events_import_nothing_heavy() -> None:
    code = "import sys, llmmagic.core.config, llmmagic.core.events; print([m for m in sys.modules if m in "
    code += "('torch', 'transformers', 'pydantic', 'IPython', 'numpy', 'platformdirs', 'yaml')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
