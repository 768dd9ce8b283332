"""What a person can set: frozen dataclasses that check themselves, and the folders that belong to llmmagic.

This module imports nothing heavy, so that ``%load_ext llmmagic`` and ``llmchat --help`` stay instant. Keys of the TRL
and PEFT configs are checked where those libraries are loaded anyway (``llmmagic.core.training``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

from llmmagic.core.errors import ConfigError, did_you_mean

Quantization = Literal["auto", "nf4", "fp4", "int8", "none"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
DenseCopy = Literal["auto", "on", "off"]
EngineName = Literal["auto", "transformers", "llama.cpp", "openai"]
GGUFType = Literal["auto", "q8_0", "q4_0", "f16", "bf16", "f32"]
SaveFormat = Literal["adapter", "merged", "gguf"]
Overflow = Literal["rolling", "stop"]
Recipe = Literal["default", "tutorial"]
MethodName = Literal["sft", "pretrain", "dpo", "kto", "grpo"]
Peft = Literal["auto", "lora", "none"]

CACHE_ENV = "LLMMAGIC_CACHE_DIR"
CACHE_LIMIT_ENV = "LLMMAGIC_CACHE_LIMIT"
DATA_ENV = "LLMMAGIC_DATA_DIR"
CONFIG_ENV = "LLMMAGIC_CONFIG_DIR"


def _check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.", hint=hint)


def _check_range(name: str, value: float | None, low: float, high: float | None, *, open_low: bool = False) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} must be a number, got {value!r}.")
    above = value > low if open_low else value >= low
    # `not (...)` rather than the opposite comparison: NaN fails every comparison and must be refused.
    if not (above and (high is None or value <= high)):
        lower = f"> {low:g}" if open_low else f">= {low:g}"
        upper = "" if high is None else f" and <= {high:g}"
        raise ConfigError(f"{name} must be {lower}{upper}, got {value!r}.")


def _check_whole(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ConfigError(f"{name} must be a whole number, got {value!r}.")


def check_address(address: str) -> None:
    """Refuse what is no address of a server.

    Args:
        address: ``http://127.0.0.1:8000/v1``.

    Raises:
        ConfigError: It is none. What may be a password is not repeated.
    """
    hint = "Write it like http://127.0.0.1:8000/v1."
    try:
        parts = urlsplit(address.strip())
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ConfigError("base_url is no address.", hint=hint) from None
    if "@" in parts.netloc:
        raise ConfigError(
            "base_url must not hold a name or password.", hint="The key comes from LLMMAGIC_API_KEY or the keyring."
        )
    if not valid or any(char.isspace() for char in address.strip()):
        raise ConfigError(f"base_url must begin with http:// or https://, got {address!r}.", hint=hint)
    if parts.query or parts.fragment:
        raise ConfigError("base_url must not hold a query (?...) or a fragment (#...).", hint=hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """Which model to load, and how.

    Raises:
        ConfigError: A value that is not allowed.
    """

    model_id: str
    """``org/name[@revision]``, a folder, an adapter folder, a ``.gguf`` file, ``demo`` or ``tiny-random``."""
    quantization: Quantization = "auto"
    """Weight format; ``auto`` is NF4 wherever bitsandbytes runs."""
    dtype: DType = "auto"
    """What is computed in; ``auto`` goes by the hardware."""
    adapter: str | None = None
    """Folder or Hub id of a PEFT adapter to put on top."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    max_context: int | None = None
    """Upper limit for the context window in tokens; ``None`` is the model's own."""
    trust_remote_code: bool = False
    """Let the model's repository run its own Python code. Only ever set by the user, by name."""
    engine: EngineName = "auto"
    """Who generates. ``auto`` is transformers, which can train; ``llama.cpp`` only chats, and is many times faster on a
    CPU. In a worker process, which never trains, ``auto`` takes llama.cpp where there is no GPU. ``openai`` leaves it
    to a server (`base_url`)."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server, ``http://127.0.0.1:8000/v1`` for instance; the engine is then ``openai``,
    and `model_id` one of the server's names, or empty for the first of them."""
    key_over_http: bool = False
    """Send the key over plain http to another machine, where everybody on the way can read it."""
    gguf_type: GGUFType = "auto"
    """What the weights become when a model is converted for llama.cpp. ``auto`` is ``q8_0`` (8.5 bits a weight, next to
    no loss); ``q4_0`` (4.5 bits) where memory holds no more."""
    dense_copy: DenseCopy = "auto"
    """4-bit weights on a CPU: keep a dequantised copy of them, for the same numbers several times faster."""
    force: bool = False
    """Load anew even when exactly this is loaded already."""

    def __post_init__(self) -> None:
        self._check_server()
        if self.engine != "openai" and not (self.model_id and self.model_id.strip()):
            raise ConfigError(
                "No model was named.", hint="Give a Hub id (org/name), a folder, a .gguf file, demo or tiny-random."
            )
        _check_choice("quantization", self.quantization, get_args(Quantization))
        _check_choice("dtype", self.dtype, get_args(DType))
        _check_choice("dense_copy", self.dense_copy, get_args(DenseCopy))
        _check_choice("engine", self.engine, get_args(EngineName))
        _check_choice("gguf_type", self.gguf_type, get_args(GGUFType))
        if self.gguf_type != "auto" and self.engine not in ("auto", "llama.cpp"):
            raise ConfigError(f"gguf_type={self.gguf_type} is for the llama.cpp engine, not for {self.engine}.")
        device, _, index = self.device.partition(":")
        if device not in ("auto", "cpu", "cuda", "mps") or (index and not (device == "cuda" and index.isdigit())):
            raise ConfigError(f"device must be auto, cpu, cuda, cuda:N or mps, got {self.device!r}.")
        _check_whole("max_context", self.max_context)
        _check_range("max_context", self.max_context, 16, None)

    @property
    def title(self) -> str:
        """What to call it before it is loaded."""
        return self.model_id if self.base_url is None else f"{self.model_id or 'the model'} at {self.base_url}"

    def _check_server(self) -> None:
        if self.base_url is not None and self.engine == "auto":
            object.__setattr__(self, "engine", "openai")
        if self.engine != "openai":
            if self.base_url is not None:
                raise ConfigError(
                    f"base_url is for the openai engine, not for {self.engine}.", hint="Leave the engine out."
                )
            return
        if self.base_url is None:
            raise ConfigError(
                "The openai engine needs the address of a server (base_url, --base-url).",
                hint="For instance http://127.0.0.1:8000/v1 (vLLM) or http://127.0.0.1:8080/v1 (llama-server).",
            )
        check_address(self.base_url)
        ours = {"quantization": "auto", "dtype": "auto", "device": "auto", "adapter": None, "revision": None}
        for name, default in ours.items():
            if getattr(self, name) != default:
                raise ConfigError(
                    f"{name} cannot be set for a model that runs on a server.",
                    hint="The server was started with it, or offers an adapter under a name of its own.",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    """How a reply is sampled.

    ``None`` is what the model's own generation config says where it samples, else the default named here.

    Raises:
        ConfigError: A value that is not allowed.
    """

    max_new_tokens: int = 512
    """Most tokens of a reply; also what the context window keeps free for it."""
    temperature: float | None = None
    """0 is greedy decoding. Default 0.7."""
    top_k: int | None = None
    """Keep the k most likely tokens; 0 is off. Default 0."""
    top_p: float | None = None
    """Keep the smallest set of tokens with this much probability (nucleus sampling, arXiv:1904.09751). Default 0.95."""
    min_p: float | None = None
    """Drop tokens less likely than this share of the most likely one (arXiv:2407.01082). Default 0."""
    repetition_penalty: float | None = None
    """Divides the logits of tokens that occurred (CTRL, arXiv:1909.05858); 1 is off. Default 1."""
    seed: int | None = None
    """Same seed, same prompt, same settings: same reply. ``None`` is a fresh one each time."""
    logprobs: int | None = None
    """Tell with each token its log-probability, and those of so many of the likeliest ones; ``None`` tells nothing."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply and are not part of it."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end the reply besides those of the model; a session adds what its chat template ends replies with."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "seed", "logprobs"):
            _check_whole(name, getattr(self, name))
        _check_range("max_new_tokens", self.max_new_tokens, 1, None)
        _check_range("temperature", self.temperature, 0, 100)
        _check_range("top_k", self.top_k, 0, None)
        _check_range("top_p", self.top_p, 0, 1, open_low=True)
        _check_range("min_p", self.min_p, 0, 1)
        _check_range("repetition_penalty", self.repetition_penalty, 0, 100, open_low=True)
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("logprobs", self.logprobs, 0, 100)
        stop: object = self.stop  # what the annotation says is what a caller may get wrong
        if not isinstance(stop, (tuple, list)) or not all(isinstance(text, str) and text for text in stop):
            raise ConfigError(f"stop must be a list of non-empty texts, got {self.stop!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What to train on and how.

    Raises:
        ConfigError: A value that is not allowed. Unknown keys of ``options`` and ``lora`` are found when training
            starts, where TRL and PEFT are imported.
    """

    name: str = "adapter"
    """Name of the adapter."""
    method: MethodName = "sft"
    """``sft``: learn given answers. ``pretrain``: raw text. ``dpo``: preferred answers. ``kto``: answers rated good or
    bad. ``grpo``: its own answers, by what reward functions think of them."""
    recipe: Recipe = "default"
    """``tutorial`` is the classic setting of the 2023 Llama-2 tutorials; see ``llmmagic.core.training.recipes``."""
    split: str | None = None
    """Split of a Hub data set, slices included (``train[:1000]``); ``None`` is ``train``."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """What columns of the data mean (``{"question": "prompt", "answer": "completion"}``); empty to find out."""
    resume: bool = False
    """Go on from the last checkpoint of the run of this name that was stopped or died."""
    checkpoint_minutes: float = 5.0
    """How often to write a checkpoint; 0 is never, but by ``save_steps``."""
    allow: tuple[str, ...] = ()
    """Findings about the data that do not stop the training: ``("empty-answer",)`` leaves such rows out."""
    samples: tuple[str | tuple[Mapping[str, str], ...], ...] = ()
    """Prompts that are answered before, during and after the training, greedily; each a text, or the messages (``role``
    and ``content``) of a conversation, of which the last question is answered."""
    sample_steps: int | None = None
    """Every how many steps; ``None`` is four times in the run."""
    sample_tokens: int = 48
    """Most tokens of such an answer."""
    reward: tuple[Any, ...] = ()
    """For ``grpo``: functions, called as TRL calls them (``prompts=``, ``completions=`` and the data's other columns),
    that give one number per answer; or names of such in a file, ``"rewards.py:brief"``."""
    peft: Peft = "auto"
    """``lora`` trains an adapter, ``none`` all weights of the model, which is then saved as a whole. ``auto`` is
    ``lora``, but for the pre-training of a model with random weights."""
    model_config: Mapping[str, Any] = field(default_factory=dict)
    """For ``pretrain``: a new model of this config (keys of Transformers, ``model_type`` among them), with random
    weights and the tokenizer of the loaded model."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the method's config in TRL (``SFTConfig``, ``DPOConfig``, ...): ``max_steps``, ``learning_rate``, ..."""
    lora: Mapping[str, Any] = field(default_factory=dict)
    """Keys of PEFT's ``LoraConfig``: ``r``, ``lora_alpha``, ``lora_dropout``, ``target_modules``, ..."""

    def __post_init__(self) -> None:
        reward: object = self.reward  # one function needs no tuple around it
        if not isinstance(reward, tuple):
            object.__setattr__(self, "reward", tuple(reward) if isinstance(reward, list) else (reward,))
        _check_samples(self.samples)
        for name in ("sample_steps", "sample_tokens"):
            _check_whole(name, getattr(self, name))
            _check_range(name, getattr(self, name), 1, None)
        _check_choice("method", self.method, get_args(MethodName))
        _check_choice("recipe", self.recipe, get_args(Recipe))
        _check_choice("peft", self.peft, get_args(Peft))
        if self.recipe != "default" and self.method != "sft":
            raise ConfigError(f"The recipe {self.recipe!r} is one of the method sft, not of {self.method}.")
        if self.reward and self.method != "grpo":
            raise ConfigError(f"The method {self.method} takes no reward functions.", hint="They are for grpo.")
        if self.model_config and (self.method != "pretrain" or self.peft == "lora"):
            raise ConfigError("A model_config is for pre-training all weights of a new model (method: pretrain).")
        _check_range("checkpoint_minutes", self.checkpoint_minutes, 0, None)
        if not self.name or not all(char.isalnum() or char in "-_" for char in self.name):
            raise ConfigError(f"The adapter's name must be letters, digits, '-' and '_', got {self.name!r}.")


def _check_samples(samples: object) -> None:
    if not isinstance(samples, (tuple, list)):
        raise ConfigError(f"samples must be a list of prompts, got {samples!r}.")
    for sample in samples:
        if isinstance(sample, str):
            sound = bool(sample.strip())
        else:
            sound = isinstance(sample, (tuple, list)) and all(
                isinstance(message, Mapping) and {"role", "content"} <= set(message) for message in sample
            )
        if not sound:
            raise ConfigError(f"A sample must be a prompt, got {sample!r}.")


def replace_known(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Make a config from keywords, refusing unknown ones with the nearest known name.

    Args:
        cls: One of the config classes of this module.
        values: Keyword arguments.

    Returns:
        ``cls(**values)``.

    Raises:
        ConfigError: An unknown key, or a value that is not allowed.
    """
    known = [f.name for f in fields(cls)]
    for key in values:
        if key not in known:
            raise ConfigError(
                f"Unknown setting {key!r}.", hint=did_you_mean(key, known) or f"Known: {', '.join(known)}."
            )
    return cls(**values)


def cache_dir() -> Path:
    """Where what can be made again is kept: converted and quantised models.

    ``LLMMAGIC_CACHE_DIR`` if set, else the platform's cache folder. Not created here.
    """
    import platformdirs

    return Path(os.environ.get(CACHE_ENV) or platformdirs.user_cache_dir("llmmagic", appauthor=False)).expanduser()


def cache_limit_bytes() -> int | None:
    """How large that folder may get: ``LLMMAGIC_CACHE_LIMIT`` in gigabytes; ``None`` if it is not set.

    Raises:
        ConfigError: It is no number.
    """
    text = os.environ.get(CACHE_LIMIT_ENV, "").strip()
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ConfigError(f"{CACHE_LIMIT_ENV} must be a number of gigabytes, got {text!r}.", hint="20, for instance.")
    return int(limit * 1e9)


def data_dir() -> Path:
    """Where what the user made is kept: conversations and adapters.

    ``LLMMAGIC_DATA_DIR`` if set, else the platform's data folder. Not created here.
    """
    import platformdirs

    return Path(os.environ.get(DATA_ENV) or platformdirs.user_data_dir("llmmagic", appauthor=False)).expanduser()


def config_dir() -> Path:
    """Where what the user has set is kept: the configuration of ``llmchat``.

    ``LLMMAGIC_CONFIG_DIR`` if set, else the platform's configuration folder. Not created here.
    """
    import platformdirs

    return Path(os.environ.get(CONFIG_ENV) or platformdirs.user_config_dir("llmmagic", appauthor=False)).expanduser()
