"""What loading and saving a model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, Union

from llmmagic.core.events.common import Cancelled, Notice, ProgressUnit

LoadStage = Literal["download", "convert", "weights", "quantize", "adapter", "save", "check"]
"""What a loading bar counts: bytes fetched, a format converted, tensors read, quantised, tokens compared, ..."""


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """One bar of a load.

    Attributes:
        stage: Which bar.
        done: How much is done, in ``unit``.
        total: How much there is; ``None`` while that is not known.
        unit: What is counted.
        detail: What is worked on now, a file name for instance.
    """

    stage: LoadStage
    done: int
    total: int | None
    unit: ProgressUnit
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """Something ``auto`` decided: ``Choice("dtype", "float32", "this CPU has no fast bfloat16")``."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Parity:
    """How near a converted model is to the one it was made of, on texts that neither has seen.

    Both get the same tokens (teacher forcing) and say at each one of a reply what they would go on with.

    Attributes:
        tokens: At how many tokens they were compared.
        agreement: Share of those where their first choices are the same token.
        mean_difference: Mean absolute difference of the log-probabilities, in nats, that both give the original's first
            choice.
        acceptable: Whether this is what the file's type explains; if not, the conversion went wrong.
    """

    tokens: int
    agreement: float
    mean_difference: float
    acceptable: bool


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded.

    Attributes:
        model_id: The name the user gave.
        revision: Commit, branch or tag that was asked for; ``None`` for the default and for local folders.
        engine: ``"transformers"``, ``"llama.cpp"``, ``"openai"``.
        architecture: For instance ``"LlamaForCausalLM"``.
        parameters: Number of weights of the base model, counted unquantised.
        layers: Number of decoder layers.
        hidden_size: Width of the residual stream.
        vocab_size: V.
        quantization: ``"nf4"``, ``"fp4"``, ``"int8"``, ``"none"``, or the name of the model's own scheme (``"gptq"``).
        dtype: What it computes in, ``"float32"`` for instance.
        device: ``"cpu"``, ``"cuda:0"``.
        context_window: Tokens that prompt and reply may have together: the model's limit, or less if asked for.
        memory_bytes: What the weights take up.
        adapter: Name of the active adapter, if any.
        adapters: Names of all adapters that are loaded.
        choices: What ``auto`` chose, and why.
        from_cache: Whether the quantised weights came from the cache.
        chat_template: Whether the tokenizer has a chat template of its own.
        parity: Of a converted model: how near it is to the original, if that was measured.
        server: Host and port of the server that the model runs on; ``None`` if it runs on this machine, loaded by us.
            What a server does not tell (layers, memory, ...) is 0 or empty.
    """

    model_id: str
    revision: str | None
    engine: str
    architecture: str
    parameters: int
    layers: int
    hidden_size: int
    vocab_size: int
    quantization: str
    dtype: str
    device: str
    context_window: int
    memory_bytes: int
    adapter: str | None = None
    adapters: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    from_cache: bool = False
    chat_template: bool = True
    parity: Parity | None = None
    server: str | None = None


@dataclass(frozen=True, slots=True)
class LoadFinished:
    """The model is ready.

    Attributes:
        info: What is loaded.
        reused: True when exactly this was loaded already and nothing was done.
        duration_s: Wall time of the load.
    """

    info: ModelInfo
    reused: bool
    duration_s: float


@dataclass(frozen=True, slots=True)
class SaveFinished:
    """What was asked for is on the disk.

    Attributes:
        path: The folder, or the GGUF file.
        format: ``"adapter"``, ``"merged"`` or ``"gguf"``.
        size_bytes: Of the weights.
        kind: What they are in: ``"float16"``, ``"q8_0"``.
        adapter: The adapter that is saved or merged in, if any.
        modelfile: For Ollama, beside a GGUF file.
        parity: Of a GGUF file: how near it is to the original.
    """

    path: str
    format: str
    size_bytes: int
    kind: str
    adapter: str | None = None
    modelfile: str | None = None
    parity: Parity | None = None


LoadEvent: TypeAlias = Union[LoadProgress, Notice, Cancelled, LoadFinished]
SaveEvent: TypeAlias = Union[LoadProgress, Notice, Cancelled, SaveFinished]
