"""What every test shares: folders of its own, and the models, made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# No test may reach out: what looks like a Hub id is answered by a local error at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The tests share the cores between processes of their own: more threads than cores would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
_CACHE_BEFORE = os.environ.get("LLMMAGIC_CACHE_DIR")


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Cache and data folders that belong to this test run; nothing of the user's is read or written."""
    root = tmp_path_factory.mktemp("llmmagic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMMAGIC_CACHE_DIR", str(root / "cache"))
        patch.setenv("LLMMAGIC_DATA_DIR", str(root / "data"))
        patch.setenv("LLMMAGIC_CONFIG_DIR", str(root / "config"))
        yield root


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``tiny-random`` model as a Transformers folder."""
    from llmmagic.core.models.tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def llama2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of Llama-2's shape: its template, a tokenizer that adds BOS, no padding token."""
    from tests.tiny_models import save_llama2_shaped

    return save_llama2_shaped(tmp_path_factory.mktemp("models") / "llama2-shaped")


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of 76 MB each in float32, large enough to be seen in the memory of a process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmmagic.core.models.tiny import make_tokenizer

    folders = []
    for name in ("a", "b"):
        config = LlamaConfig(
            vocab_size=16_000, hidden_size=512, intermediate_size=1024, num_hidden_layers=1, num_attention_heads=8
        )
        folder = tmp_path_factory.mktemp(name)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        folders.append(folder)
    return folders[0], folders[1]


@pytest.fixture(scope="session")
def medquad() -> Path:
    """Real medical questions and answers, which are not part of this repository."""
    default = Path(__file__).parents[2] / "shared" / "data" / "medquad"
    folder = Path(os.environ.get("LLMMAGIC_MEDQUAD", default))
    if not (folder / "train.jsonl").is_file():
        pytest.skip("MedQuAD is not here: set LLMMAGIC_MEDQUAD to a folder with train.jsonl and eval.jsonl")
    return folder


@pytest.fixture(scope="session")
def demo_folder(user_cache: str | None) -> Path:
    """The real ``demo`` model as a Transformers folder, for tests marked ``slow``.

    It is fetched and converted once, into ``LLMMAGIC_TEST_CACHE`` if that is set, else into the user's own cache, which
    outlives the test run. ``demo`` by name finds it there too, within the `demo_cache` fixture.
    """
    from llmmagic.core.models.demo import demo_folder as fetch
    from llmmagic.core.operation import CancelToken

    with pytest.MonkeyPatch.context() as patch:
        _use_cache(patch, user_cache)
        return fetch(emit=lambda event: None, cancel=CancelToken())


@pytest.fixture
def demo_cache(monkeypatch: pytest.MonkeyPatch, user_cache: str | None, demo_folder: Path) -> None:
    """Within it the cache is the lasting one, so that loading ``demo`` by name downloads nothing again."""
    _use_cache(monkeypatch, user_cache)


@pytest.fixture(scope="session")
def user_cache() -> str | None:
    """Folder of the cache that outlives the run; ``None`` is the platform's."""
    return os.environ.get("LLMMAGIC_TEST_CACHE") or _CACHE_BEFORE


def _use_cache(patch: pytest.MonkeyPatch, folder: str | None) -> None:
    if folder is None:
        patch.delenv("LLMMAGIC_CACHE_DIR")
    else:
        patch.setenv("LLMMAGIC_CACHE_DIR", folder)
