"""The notebooks run from the top with a real model, and what they keep can be read without a kernel."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture(scope="module")
def execute_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("execute", NOTEBOOKS / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(notebook: NotebookNode, beginning: str, *, nth: int = 0) -> NotebookNode:
    """The nth code cell that begins like this."""
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.startswith(beginning)][nth]


def bundle(code_cell: NotebookNode) -> tuple[str, str]:
    """The last thing a cell shows, as plain text and as HTML."""
    data = code_cell.outputs[-1].data
    return data["text/plain"], data["text/html"]


@pytest.mark.slow
@pytest.mark.usefixtures("demo_cache")
@pytest.mark.timeout(1800)
def test_quickstart(execute_script: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(NOTEBOOKS / "data", tmp_path / "data")
    notebook = execute_script.execute(NOTEBOOKS / "01_quickstart.ipynb", folder=tmp_path)

    assert "widgets" not in notebook.metadata
    for code_cell in (c for c in notebook.cells if c.cell_type == "code"):
        assert not any(
            "application/vnd.jupyter.widget-view+json" in output.get("data", {}) for output in code_cell.outputs
        )

    loaded_text, loaded_html = bundle(cell(notebook, "%load_ext"))
    assert "nf4" in loaded_text
    assert "nf4" in loaded_html

    trained_text, trained_html = bundle(cell(notebook, "%%llm_train"))
    assert 'src="data:image/png;base64,' in trained_html  # the loss curve
    losses = re.search(r"([\d.]+) → ([\d.]+)", trained_text)
    assert losses is not None
    before, after = float(losses[1]), float(losses[2])
    assert after < before - 0.5

    question = "%llm_chat --new --temperature 0 --max-new-tokens 80 What is bursitis?"
    untrained, _ = bundle(cell(notebook, "%llm_chat --temperature 0"))
    trained, _ = bundle(cell(notebook, question))
    reloaded, _ = bundle(cell(notebook, question, nth=1))
    answer = trained.splitlines()[0]
    assert "bursa" in answer
    assert answer != untrained.splitlines()[0]
    assert answer == reloaded.splitlines()[0]
    assert (tmp_path / "adapters" / "medical" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("demo_cache")
@pytest.mark.timeout(1800)
def test_finetune_medical(execute_script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMMAGIC_MEDQUAD", raising=False)
    shutil.copytree(NOTEBOOKS / "data", tmp_path / "data")
    notebook = execute_script.execute(NOTEBOOKS / "02_finetune_medical.ipynb", folder=tmp_path)

    seen_text, seen_html = bundle(cell(notebook, "%llm_data"))
    assert "64 of 64 are token for token what the chat sends" in seen_text
    assert "learnt in 86 of 86 examples" in seen_text
    assert "border-bottom:2px solid" in seen_html  # what is trained on is underlined

    losses = {}
    for name in ("tutorial", "ours"):
        text, html = bundle(cell(notebook, f"%%llm_train {name}"))
        assert 'src="data:image/png;base64,' in html
        found = re.search(r"Held-out loss +([\d.]+) → ([\d.]+)", text)
        assert found is not None
        losses[name] = float(found[1]), float(found[2])
        assert re.search(r"What is bursitis\?\n    before .*\n    step 6 .*\n    after ", text)
    assert losses["tutorial"][0] == losses["ours"][0]  # both begin at the bare model
    assert losses["ours"][1] < losses["ours"][0] - 0.1
    assert losses["ours"][1] < losses["tutorial"][1] - 0.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_pretrain(execute_script: ModuleType, tmp_path: Path) -> None:
    shutil.copytree(NOTEBOOKS / "data", tmp_path / "data")
    notebook = execute_script.execute(NOTEBOOKS / "03_pretrain.ipynb", folder=tmp_path)

    for name, factor in (("scratch", 10), ("talk", 1.1)):
        trained = cell(notebook, f"%%llm_train {name}")
        assert len(trained.outputs) == 1  # the card alone: no bar of a library beside it
        text, _ = bundle(trained)
        perplexity = re.search(r"perplexity ([\d.]+) → ([\d.]+)", text)
        assert perplexity is not None
        assert float(perplexity[2]) * factor < float(perplexity[1])
        assert "90,624 of 90,624 weights (100 %)" in text
        assert (tmp_path / "results" / name / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("demo_cache")
@pytest.mark.timeout(1800)
def test_feedback(execute_script: ModuleType, tmp_path: Path) -> None:
    notebook = execute_script.execute(NOTEBOOKS / "04_feedback.ipynb", folder=tmp_path)

    trained, _ = bundle(cell(notebook, "%%llm_train"))
    assert "8 pairs of replies" in trained
    margin = re.search(r"Held-out reward margin +([-\d.]+) → ([-\d.]+)", trained)
    assert margin is not None
    assert float(margin[1]) == 0
    assert float(margin[2]) > 1
    assert re.search(r"Held-out preferred as chosen +0% → 100%", trained)
