from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.errors import ConfigError
from llmmagic.core.training.options import Compute, make_lora_config, make_sft_config
from llmmagic.core.training.owned import OWNED, OWNED_LORA
from llmmagic.core.training.recipes import RECIPES

CPU = Compute("cpu", "float32")


def sft(**given: Any) -> Any:
    return make_sft_config(given, RECIPES["default"].options, CPU)


def test_what_yaml_reads_as_text_becomes_a_number() -> None:
    config = sft(learning_rate="2e-4", max_steps="20", warmup_steps=3, gradient_accumulation_steps=2.0)
    assert (config.learning_rate, config.max_steps) == (2e-4, 20)
    assert config.gradient_accumulation_steps == 2
    assert make_lora_config({"r": "8", "lora_dropout": "1e-2"}, {}).lora_dropout == 0.01


def test_on_a_cpu_neither_bfloat16_nor_checkpointing_are_on_unless_asked_for() -> None:
    config = sft()
    assert (config.bf16, config.fp16, config.gradient_checkpointing, config.use_cpu) == (False, False, False, True)
    assert sft(gradient_checkpointing=True).gradient_checkpointing


def test_the_users_setting_wins_over_the_recipe() -> None:
    assert sft(learning_rate=1e-3).learning_rate == 1e-3
    tutorial = make_sft_config({"num_train_epochs": 2}, RECIPES["tutorial"].options, CPU)
    assert tutorial.max_steps == -1  # epochs were asked for: the recipe's 100 steps do not cut them short


def test_the_tutorial_recipe_is_exactly_the_tutorials_setting() -> None:
    config = make_sft_config({}, RECIPES["tutorial"].options, CPU)
    assert Path(config.output_dir) == Path("results")
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps, config.max_steps) == (4, 1, 100)
    assert (config.learning_rate, config.lr_scheduler_type.value, config.warmup_steps) == (5e-5, "linear", 0)
    lora = make_lora_config({}, RECIPES["tutorial"].lora)
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.target_modules) == (64, 16, 0.1, None)
    assert RECIPES["tutorial"].quantization == "nf4"
    assert RECIPES["tutorial"].float16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rat": 1}, r"no training setting 'learning_rat'. Did you mean 'learning_rate'\?"),
        ({"max_seq_length": 1}, "no training setting 'max_seq_length'. Did you mean 'max_length'"),
        ({"max_steps": "many"}, "'max_steps' cannot be 'many': Input should be a valid integer"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"learning_rate": -1}, "learning_rate must be >= 0, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate must be >= 0, got nan"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be >= 1"),
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type cannot be 'cosin'. Did you mean 'cosine'"),
        ({"optim": "adamw"}, "optim cannot be 'adamw'. Did you mean 'adamw_torch'"),
        ({"fp16": True, "bf16": True}, "do not go together: .*bf16"),
        ({"dataset_text_field": "x"}, "'dataset_text_field' cannot be changed: .*--map COLUMN=text"),
    ],
)
def test_bad_settings_are_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sft(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lora_alfa": 8}, "no LoRA setting 'lora_alfa'. Did you mean 'lora_alpha'"),
        ({"r": 0}, "r must be >= 1, got 0"),
        ({"lora_dropout": 1.5}, "lora_dropout must be >= 0 and <= 0.999"),
        ({"bias": "some"}, "'bias' cannot be 'some'"),
        ({"task_type": "SEQ_CLS"}, "'task_type' cannot be changed"),
    ],
)
def test_bad_lora_settings_are_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_lora_config(given, {})


def test_more_of_peft_passes_through() -> None:
    given = {"use_dora": True, "use_rslora": True, "init_lora_weights": "pissa_niter_4", "target_modules": "all-linear"}
    config = make_lora_config(given, RECIPES["default"].lora)
    assert {key: getattr(config, key) for key in given} == given


def test_every_owned_key_exists() -> None:
    import dataclasses

    from peft import LoraConfig
    from trl import SFTConfig

    assert set(OWNED) <= {field.name for field in dataclasses.fields(SFTConfig)}
    assert set(OWNED_LORA) <= {field.name for field in dataclasses.fields(LoraConfig)}
