"""What a person has set, from the weakest word to the strongest: defaults, ``config.toml``, ``LLMCHAT_*``, the command.

`Settings` is what the app and the filter get; neither asks where a value comes from. Example of a file::

    model = "demo"
    system = "You answer in one sentence."
    theme = "llmchat-light"

    [generation]
    temperature = 0.7
    max_new_tokens = 256

    [keys]
    new_conversation = "ctrl+n"

The model that was used last is no setting: it is kept in the data folder (`last_model`, `remember_model`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from llmmagic.core.config import (
    EngineName,
    GenerationConfig,
    GGUFType,
    LoadConfig,
    Overflow,
    Quantization,
    config_dir,
    data_dir,
)
from llmmagic.core.errors import ConfigError, did_you_mean

ENV_PREFIX = "LLMCHAT_"
DEFAULT_MODEL = "demo"
_STATE_NAME = "llmchat.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set.

    Raises:
        ConfigError: A value that is not allowed.
    """

    model: str | None = None
    """What to load; ``None`` is the model that was used last."""
    adapter: str | None = None
    """Folder or Hub id of a PEFT adapter."""
    quantization: Quantization = "auto"
    """Weight format."""
    engine: EngineName = "auto"
    """Who generates: ``llama.cpp`` where there is no GPU, else ``transformers``, if it is left to us."""
    gguf_type: GGUFType = "auto"
    """What the weights become when a model is converted for llama.cpp: ``q8_0`` if memory holds it, else ``q4_0``."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server that the model runs on; the engine is then ``openai``."""
    key_over_http: bool = False
    """Send the key over plain http to another machine; for the command line alone, so that it is meant each time."""
    system: str | None = None
    """System prompt of new conversations; ``None`` leaves it to the model's chat template."""
    context: int | None = None
    """Upper limit for the context window in tokens."""
    overflow: Overflow = "rolling"
    """What happens when the window is full: the oldest turns go, or sending is refused."""
    theme: str = "llmchat-dark"
    """Name of a Textual theme. The app checks it, where Textual is loaded."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How a reply is sampled: the ``[generation]`` table."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Binding id -> keys, as Textual writes them (``"ctrl+n,f2"``): the ``[keys]`` table. The app checks the ids."""
    warnings: tuple[str, ...] = ()
    """What was found and not understood, one sentence each; shown, but nothing stops for it."""

    def __post_init__(self) -> None:
        if self.overflow not in get_args(Overflow):
            allowed = get_args(Overflow)
            hint = did_you_mean(str(self.overflow), allowed)
            raise ConfigError(f"overflow must be one of {', '.join(allowed)}, got {self.overflow!r}.", hint=hint)
        if self.context is not None and self.context < 16:
            raise ConfigError(f"context must be >= 16 tokens, got {self.context!r}.")
        self.load_config(default=DEFAULT_MODEL)  # checks the rest

    def load_config(self, *, default: str | None = None) -> LoadConfig:
        """What to load, and how.

        Args:
            default: The model to take when none is set; ``None`` is the one that was used last.

        Raises:
            ConfigError: A value that is not allowed.
        """
        # An engine of this machine that is asked for by name is for a model of this machine, whatever the file says.
        if self.engine == "openai" or (self.base_url is not None and self.engine == "auto"):
            return self._server_config()
        return LoadConfig(
            model_id=self.model if self.model is not None else default or last_model() or DEFAULT_MODEL,
            adapter=self.adapter,
            quantization=self.quantization,
            engine=self.engine,
            gguf_type=self.gguf_type if self.engine != "transformers" else "auto",
            max_context=self.context,
        )

    def _server_config(self) -> LoadConfig:
        # The last model was one of this machine; and how its weights are kept is no word about those of a server.
        return LoadConfig(
            model_id=self.model or "",
            adapter=self.adapter,
            engine=self.engine,
            base_url=self.base_url,
            key_over_http=self.key_over_http,
            max_context=self.context,
        )

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """These settings with some of them changed.

        Args:
            values: Key -> value; those of ``[generation]`` by their own names (``temperature``).

        Raises:
            ConfigError: A value that is not allowed.
        """
        own = {key: value for key, value in values.items() if key not in GENERATION_KINDS}
        sampling = {key: value for key, value in values.items() if key in GENERATION_KINDS}
        if "base_url" in own:  # stronger than an engine that a weaker word has named
            own.setdefault("engine", "auto")
        return replace(self, **own, generation=replace(self.generation, **sampling))


# What a key takes. `generation`, `keys` and `warnings` are no single values.
KINDS: dict[str, type] = {
    "model": str, "adapter": str, "quantization": str, "engine": str, "gguf_type": str, "base_url": str, "system": str,
    "context": int,
    "overflow": str, "theme": str,
}  # fmt: skip
GENERATION_KINDS: dict[str, type] = {
    "max_new_tokens": int, "temperature": float, "top_k": int, "top_p": float, "min_p": float,
    "repetition_penalty": float, "seed": int, "stop": list,
}  # fmt: skip
_KIND_NAMES: dict[type, str] = {str: "a text", int: "a whole number", float: "a number", list: "a list of texts"}
_TABLES = ("generation", "keys")
_FOLDER_ENV = ("LLMMAGIC_CACHE_DIR", "LLMMAGIC_CONFIG_DIR", "LLMMAGIC_DATA_DIR")


def config_path() -> Path:
    """The configuration file; it need not exist."""
    return config_dir() / "config.toml"


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings as the configuration file and the environment have them.

    Args:
        environ: Environment variables; ``LLMCHAT_TEMPERATURE`` is ``temperature`` and stronger than the file.

    Returns:
        The settings, with a warning for every key and variable that is not known.

    Raises:
        ConfigError: A file that is no TOML, or a value that is not allowed; the message says where it stands.
    """
    path = config_path()
    warnings: list[str] = []
    settings = Settings()
    for values, source in ((_from_file(path, warnings), str(path)), (_from_environ(environ, warnings), "environment")):
        try:
            settings = settings.changed(values)
        except ConfigError as err:
            raise ConfigError(f"{source}: {err.message}", hint=err.hint) from err
    return replace(settings, warnings=tuple(warnings))


def _from_file(path: Path, warnings: list[str]) -> dict[str, Any]:
    try:
        # A byte order mark is what Windows editors leave; TOML does not know it.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path} cannot be read: {err}.") from err
    # Imported here: most people have no such file, and the app should be there at once.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{path} is no valid TOML: {err}.") from err
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in KINDS:
            values[key] = _checked(f"{path}: {key}", value, KINDS[key])
        elif key in _TABLES:
            if not isinstance(value, dict):
                raise ConfigError(f"{path}: {key} must be a table, got {value!r}.", hint=f"Write [{key}].")
        elif key in GENERATION_KINDS:
            warnings.append(f"{path}: {key!r} belongs below [generation], so it has no effect here.")
        else:
            warnings.append(_unknown(f"{path}: unknown key {key!r}", key, [*KINDS, *_TABLES]))
    for key, value in table.get("generation", {}).items():
        if key in GENERATION_KINDS:
            values[key] = _checked(f"{path}: generation.{key}", value, GENERATION_KINDS[key])
        else:
            warnings.append(_unknown(f"{path}: unknown key {key!r} in [generation]", key, GENERATION_KINDS))
    if "keys" in table:
        values["keys"] = {key: _checked(f"{path}: keys.{key}", value, str) for key, value in table["keys"].items()}
    return values


def _from_environ(environ: Mapping[str, str], warnings: list[str]) -> dict[str, Any]:
    # A list has no obvious form in a variable.
    kinds = {key: kind for key, kind in (KINDS | GENERATION_KINDS).items() if kind is not list}
    values: dict[str, Any] = {}
    for name, text in environ.items():
        if not name.startswith(ENV_PREFIX):
            continue
        key = name[len(ENV_PREFIX) :].lower()
        if key not in kinds:
            known = [ENV_PREFIX + each.upper() for each in kinds]
            warnings.append(_unknown(f"Unknown variable {name}", name, [*known, *_FOLDER_ENV]))
        elif text:  # an empty variable is one that is not set
            values[key] = _parsed(name, text, kinds[key])
    return values


def _unknown(what: str, given: str, known: Iterable[str]) -> str:
    return f"{what}. {did_you_mean(given, known)}".rstrip()


def _checked(what: str, value: object, kind: type) -> Any:
    allowed = (int, float) if kind is float else kind
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise ConfigError(f"{what} must be {_KIND_NAMES[kind]}, got {value!r}.")
    return tuple(value) if isinstance(value, list) else value


def _parsed(what: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError as err:
        raise ConfigError(f"{what} must be {_KIND_NAMES[kind]}, got {text!r}.") from err


def last_model() -> str | None:
    """The model that was loaded last, if it is known."""
    import json

    try:
        state = json.loads((data_dir() / _STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a convenience: without it the default model is used
        return None
    model = state.get("model") if isinstance(state, dict) else None
    return model if isinstance(model, str) and model.strip() else None


def remember_model(model_id: str) -> None:
    """Keep the name of the model that was loaded, for a start without one.

    Args:
        model_id: A name as `LoadConfig` takes it; a relative folder is kept as an absolute one.
    """
    import json

    path = data_dir() / _STATE_NAME
    # `demo` is the built-in model wherever one stands; a relative folder is found from everywhere only when absolute.
    folder = Path(model_id).expanduser()
    name = str(folder.resolve()) if len(folder.parts) > 1 and folder.exists() else model_id
    if name == last_model():
        return
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({"model": name}), encoding="utf-8")
        part.replace(path)
    except OSError:  # a convenience, too; a data folder that cannot be written is for the store to report
        with suppress(OSError):
            part.unlink()
