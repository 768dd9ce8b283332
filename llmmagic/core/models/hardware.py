"""What this machine can do, and what ``auto`` means on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmmagic.core.config import LoadConfig
from llmmagic.core.errors import ConfigError
from llmmagic.core.events import Choice

DeviceKind = Literal["cpu", "cuda", "mps"]

BITS = {"nf4": 4, "fp4": 4, "int8": 8}
_BFLOAT16_CAPABILITY = (8, 0)
"""First CUDA compute capability with bfloat16 arithmetic in hardware (Ampere); before it, it is emulated and slow."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the choices depend on.

    Attributes:
        kind: Where models run by default.
        name: Of the device, for people.
        count: How many CUDA devices there are.
        native_bfloat16: Whether the device computes in bfloat16 by itself.
    """

    kind: DeviceKind
    name: str
    count: int = 0
    native_bfloat16: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how a model is going to run.

    Attributes:
        device: ``"cpu"``, ``"cuda:0"``, ``"mps"``.
        quantization: ``"nf4"``, ``"fp4"``, ``"int8"``, ``"none"`` or the model's own scheme.
        dtype: What is computed in.
        choices: What ``auto`` decided, and why.
    """

    device: str
    quantization: str
    dtype: str
    choices: tuple[Choice, ...]


def detect(device: str = "auto") -> Hardware:
    """Look at the device that a model is to run on.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        What it can do.

    Raises:
        ConfigError: There is no such device.
    """
    import torch

    kind, _, index = device.partition(":")
    if kind == "cuda" or (kind == "auto" and torch.cuda.is_available()):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= count:
            have = f"there are {count} CUDA devices" if count else "PyTorch finds no CUDA device"
            raise ConfigError(f"device={device!r} cannot be used: {have}.", hint="Use device=cpu or device=auto.")
        at = int(index) if index else torch.cuda.current_device()
        native = torch.version.hip is not None or torch.cuda.get_device_capability(at) >= _BFLOAT16_CAPABILITY
        return Hardware("cuda", torch.cuda.get_device_name(at), count, native)
    if kind == "mps" or (kind == "auto" and torch.backends.mps.is_available()):
        if not torch.backends.mps.is_available():
            raise ConfigError(f"device={device!r} cannot be used: PyTorch finds no Apple GPU.", hint="Use device=cpu.")
        return Hardware("mps", "Apple GPU", 1, True)
    return Hardware("cpu", "CPU")


def place(config: LoadConfig, hardware: Hardware, *, own_scheme: str | None = None, tiny: bool = False) -> Placement:
    """Decide device, quantisation and dtype.

    Args:
        config: What the user asked for.
        hardware: What there is.
        own_scheme: Quantisation that the model's files come in (``"gptq"``), if any.
        tiny: The model is ``tiny-random``.

    Returns:
        The decisions, each that ``auto`` made with its reason.

    Raises:
        ConfigError: A combination that cannot work.
    """
    choices: list[Choice] = []
    device = _device(config, hardware, choices)
    quantization = _quantization(config, hardware, own_scheme, tiny, choices)
    dtype = _dtype(config, hardware, quantization, choices)
    return Placement(device, quantization, dtype, tuple(choices))


def _device(config: LoadConfig, hardware: Hardware, choices: list[Choice]) -> str:
    if config.device == "auto":
        import torch

        device = f"cuda:{torch.cuda.current_device()}" if hardware.kind == "cuda" else hardware.kind
        reason = "no GPU was found" if hardware.kind == "cpu" else f"{hardware.name} was found"
        choices.append(Choice("device", device, reason))
        return device
    return "cuda:0" if config.device == "cuda" else config.device


def _quantization(
    config: LoadConfig, hardware: Hardware, own_scheme: str | None, tiny: bool, choices: list[Choice]
) -> str:
    asked = config.quantization
    if own_scheme is not None:
        if asked not in ("auto", own_scheme):
            raise ConfigError(
                f"{config.model_id} is already quantised with {own_scheme}; quantization={asked} cannot be applied.",
                hint="Leave quantization at auto, or load the model that it was made from.",
            )
        choices.append(Choice("quantization", own_scheme, "the model's files come quantised like this"))
        return own_scheme
    if hardware.kind == "mps" and asked in BITS:
        raise ConfigError(f"quantization={asked} does not work on an Apple GPU.", hint="Use none, or device=cpu.")
    if asked != "auto":
        return asked
    if tiny:
        choices.append(Choice("quantization", "none", "two small layers: there is nothing to save"))
        return "none"
    if hardware.kind == "mps":
        choices.append(Choice("quantization", "none", "bitsandbytes has no 4-bit kernels for Apple GPUs"))
        return "none"
    reason = "4 bits a weight, with doubly quantised scales: about an eighth of float32, at little loss"
    choices.append(Choice("quantization", "nf4", reason))
    return "nf4"


def _dtype(config: LoadConfig, hardware: Hardware, quantization: str, choices: list[Choice]) -> str:
    if config.dtype != "auto":
        return config.dtype
    if hardware.kind == "cuda":
        dtype = "bfloat16" if hardware.native_bfloat16 else "float16"
        has = "computes in bfloat16" if hardware.native_bfloat16 else "has no bfloat16 arithmetic"
        choices.append(Choice("dtype", dtype, f"{hardware.name} {has}"))
        return dtype
    if hardware.kind == "mps":
        choices.append(Choice("dtype", "float16", "fast on every Apple GPU, and half of float32's memory"))
        return "float16"
    # Measured (SmolLM2-135M, NF4): without AVX512-BF16/AMX bfloat16 takes 3 times as long to read a prompt and 8 times
    # as long to train. With AMX a prompt is read twice as fast, decoding is slower, a training step takes the same.
    choices.append(Choice("dtype", "float32", "exact, and fastest on most CPUs for 4-bit weights and for training"))
    return "float32"
