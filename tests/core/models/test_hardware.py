"""What `auto` chooses, on machines that need not be here."""

from __future__ import annotations

import pytest
import torch

from llmmagic.core.config import LoadConfig
from llmmagic.core.errors import ConfigError
from llmmagic.core.models.hardware import Hardware, place

CPU = Hardware("cpu", "CPU")
T4 = Hardware("cuda", "Tesla T4", 1, native_bfloat16=False)
A100 = Hardware("cuda", "NVIDIA A100", 1, native_bfloat16=True)
MPS = Hardware("mps", "Apple GPU", 1, native_bfloat16=True)


@pytest.fixture(autouse=True)
def first_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def config(**settings: object) -> LoadConfig:
    return LoadConfig(model_id="org/model", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hardware", "device", "quantization", "dtype"),
    [
        (CPU, "cpu", "nf4", "float32"),
        (T4, "cuda:0", "nf4", "float16"),
        (A100, "cuda:0", "nf4", "bfloat16"),
        (MPS, "mps", "none", "float16"),
    ],
)
def test_auto_goes_by_the_hardware_and_says_why(hardware: Hardware, device: str, quantization: str, dtype: str) -> None:
    placement = place(config(), hardware)
    assert (placement.device, placement.quantization, placement.dtype) == (device, quantization, dtype)
    assert [(choice.name, choice.value) for choice in placement.choices] == [
        ("device", device),
        ("quantization", quantization),
        ("dtype", dtype),
    ]
    assert all(choice.reason for choice in placement.choices)


def test_the_t4s_reason_is_its_missing_bfloat16() -> None:
    assert place(config(), T4).choices[-1].reason == "Tesla T4 has no bfloat16 arithmetic"


def test_everything_can_be_overridden() -> None:
    placement = place(config(device="cuda:1", quantization="int8", dtype="float32"), A100)
    assert (placement.device, placement.quantization, placement.dtype) == ("cuda:1", "int8", "float32")
    assert placement.choices == ()


def test_four_bits_on_an_apple_gpu_are_refused() -> None:
    with pytest.raises(ConfigError, match="quantization=nf4 does not work on an Apple GPU"):
        place(config(quantization="nf4"), MPS)


def test_a_scheme_of_the_models_own_stays() -> None:
    placement = place(config(), A100, own_scheme="gptq")
    assert placement.quantization == "gptq"
    with pytest.raises(ConfigError, match="already quantised with gptq; quantization=nf4 cannot be applied"):
        place(config(quantization="nf4"), A100, own_scheme="gptq")


def test_the_tiny_model_is_not_quantised_unless_asked() -> None:
    assert place(config(), CPU, tiny=True).quantization == "none"
    assert place(config(quantization="nf4"), CPU, tiny=True).quantization == "nf4"
