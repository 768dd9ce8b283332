"""What is set where, what is stronger, and what a mistake says."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmmagic.core.config import GenerationConfig
from llmmagic.core.errors import ConfigError
from llmmagic_tui.settings import Settings, config_path, last_model, read_settings, remember_model


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMMAGIC_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("LLMMAGIC_DATA_DIR", str(tmp_path / "data"))


def write_config(text: str, *, encoding: str = "utf-8") -> Path:
    path = config_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


def test_without_file_and_variables_everything_is_default() -> None:
    settings = read_settings({})
    assert settings == Settings()
    assert settings.load_config().model_id == "demo"
    assert settings.generation == GenerationConfig()


def test_file_sets_every_kind_of_value() -> None:
    write_config(
        """
        model = "org/name"
        system = "Be short."
        context = 1024
        overflow = "stop"
        theme = "nord"
        quantization = "int8"
        [generation]
        temperature = 1      # whole numbers are numbers, too
        max_new_tokens = 64
        stop = ["###", "END"]
        [keys]
        new_conversation = "f2"
        """
    )
    settings = read_settings({})
    assert settings.generation == GenerationConfig(temperature=1, max_new_tokens=64, stop=("###", "END"))
    assert (settings.system, settings.overflow, settings.theme) == ("Be short.", "stop", "nord")
    assert settings.keys == {"new_conversation": "f2"}
    load = settings.load_config()
    assert (load.model_id, load.max_context, load.quantization) == ("org/name", 1024, "int8")
    assert settings.warnings == ()


def test_byte_order_mark_of_windows_editors_is_no_error() -> None:
    write_config('model = "tiny-random"\n', encoding="utf-8-sig")
    assert read_settings({}).model == "tiny-random"


def test_variable_is_stronger_than_file_and_command_line_than_both() -> None:
    write_config('model = "from-file"\n[generation]\ntemperature = 0.1\nseed = 1\n')
    settings = read_settings({"LLMCHAT_TEMPERATURE": "0.2", "LLMCHAT_SEED": "2", "LLMCHAT_MODEL": ""})
    assert settings.model == "from-file"  # an empty variable is one that is not set
    assert settings.changed({"temperature": 0.3}).generation == GenerationConfig(temperature=0.3, seed=2)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("modle = 'demo'", "unknown key 'modle'. Did you mean 'model'?"),
        ("[generation]\ntemprature = 1", "unknown key 'temprature' in [generation]. Did you mean 'temperature'?"),
        ("temperature = 1", "'temperature' belongs below [generation], so it has no effect here."),
        ("[key]\nquit = 'q'", "unknown key 'key'. Did you mean 'keys'?"),
    ],
)
def test_unknown_key_is_a_warning_with_the_nearest_one(text: str, warning: str) -> None:
    path = write_config(text)
    settings = read_settings({})
    assert settings.warnings == (f"{path}: {warning}",)
    assert settings.generation == GenerationConfig()


def test_unknown_variable_is_a_warning_with_the_nearest_one() -> None:
    settings = read_settings({"LLMCHAT_TEMPERATUR": "1", "LLMCHAT_DATA_DIR": "/x", "OTHER": "1"})
    assert settings.warnings == (
        "Unknown variable LLMCHAT_TEMPERATUR. Did you mean 'LLMCHAT_TEMPERATURE'?",
        "Unknown variable LLMCHAT_DATA_DIR. Did you mean 'LLMMAGIC_DATA_DIR'?",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 7", "model must be a text, got 7"),
        ("context = 'big'", "context must be a whole number, got 'big'"),
        ("context = 3", "context must be >= 16 tokens, got 3"),
        ("context = true", "context must be a whole number, got True"),
        ("overflow = 'rollin'", "Did you mean 'rolling'?"),
        ("quantization = 'nf5'", "quantization must be one of"),
        ("generation = 3", "Write [generation]."),
        ("[generation]\ntemperature = -1", "temperature must be >= 0"),
        ("[generation]\ntemperature = 'hot'", "generation.temperature must be a number, got 'hot'"),
        ("[generation]\nstop = [1]", "stop must be a list of non-empty texts"),
        ("[keys]\nquit = 1", "keys.quit must be a text, got 1"),
        ("model = ", "no valid TOML"),
    ],
)
def test_wrong_value_is_an_error_that_names_the_file(text: str, message: str) -> None:
    path = write_config(text)
    with pytest.raises(ConfigError) as caught:
        read_settings({})
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_file_that_is_no_text_is_an_error() -> None:
    path = config_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe\x00m")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings({})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("LLMCHAT_SEED", "x", "LLMCHAT_SEED must be a whole number, got 'x'"),
        ("LLMCHAT_TOP_P", "2", "environment: top_p must be > 0 and <= 1, got 2.0"),
        ("LLMCHAT_OVERFLOW", "drop", "environment: overflow must be one of rolling, stop, got 'drop'"),
    ],
)
def test_wrong_variable_is_an_error_that_names_it(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({name: text})
    assert message in str(caught.value)


def test_last_model_is_used_when_none_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert last_model() is None
    remember_model("tiny-random")
    assert Settings().load_config().model_id == "tiny-random"
    assert Settings(model="demo").load_config().model_id == "demo"
    # A relative folder would not be found from elsewhere.
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    remember_model("models/mine")
    assert last_model() == str(tmp_path / "models" / "mine")


@pytest.mark.parametrize("content", ["", "[]", '{"model": 3}', '{"model": " "}', "\x00"])
def test_broken_state_is_no_state(content: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "llmchat.json").write_text(content)
    assert last_model() is None
    remember_model("demo")
    assert last_model() == "demo"


def test_folder_that_cannot_be_written_loses_only_the_memory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    remember_model("demo")
    assert last_model() is None
