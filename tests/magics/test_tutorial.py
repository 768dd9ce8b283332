"""The run of the Llama-2 tutorials in three cells, on a tiny model of that shape and real data."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from llmmagic.magics.results import Reply, TrainSummary


def test_load_train_and_ask(
    shell: InteractiveShell, llama2_folder: Path, medquad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the recipe writes to ./results
    data = medquad / "train_llama2_text.jsonl"
    session = shell.magics_manager.registry["LLMMagics"].session
    assert shell.run_cell(f'%llm_load "{llama2_folder.as_posix()}"').success
    assert session.info.quantization == "nf4"
    cell = f'%%llm_train medical --data "{data.as_posix()}" --split [:40] --recipe tutorial -o summary\nmax_steps: 2\n'
    assert shell.run_cell(cell).success
    summary = shell.user_ns["summary"]
    assert isinstance(summary, TrainSummary)
    assert summary.finished is not None
    assert summary.started.data.format == "llama-2 text"
    assert summary.started.batch_size == 4
    settings = summary.started.settings
    assert (settings["lora_r"], settings["lora_alpha"], settings["lora_dropout"]) == ("64", "16", "0.1")
    assert Path(summary.finished.adapter_dir) == Path("results")
    assert (tmp_path / "results" / "adapter_config.json").is_file()
    assert shell.run_cell("%llm_chat --max-new-tokens 4 -o reply Please tell me about Bursitis").success
    assert isinstance(shell.user_ns["reply"], Reply)
    assert session.info.adapter == "medical"
    # What the model was sent: one BOS, although the tokenizer would add another, and no second [INST].
    opened = session._require("Reading the prompt")
    plan = session._conversations.plan("default", opened, draft="And now?", reserve_tokens=4)
    sent = opened.template.decode(plan.prompt_ids)
    assert plan.prompt_ids[:2].count(1) == 1
    assert sent.startswith("<s>[INST] Please tell me about Bursitis [/INST]")
    assert sent.count("[INST]") == 2
    assert shell.run_cell("%llm_load results").success, "the adapter finds its base model again"
    assert session.info.adapter == "results"
