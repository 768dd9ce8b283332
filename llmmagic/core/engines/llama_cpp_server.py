"""llama.cpp's server, in this process: how it is set up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmmagic.core.errors import ModelLoadError

CHUNK_TOKENS = 256
"""Of a prompt, between two looks at the cancel token."""
_NGRAM_TOKENS, _DRAFT_TOKENS = 4, 12
"""Where the last 4 tokens occurred before, the 12 that followed them there are guessed.

Measured with ``demo`` on two cores: 1.4 to 1.9 times as fast where an answer repeats the question, no slower where it
does not. Longer guesses gain more where all of them are right, and lose where they are not.
"""


def start_server(file: Path, *, context_window: int, drafts: bool) -> Any:
    """Load a GGUF file.

    Args:
        file: The weights.
        context_window: Tokens that prompt and reply may have together; memory for all of them is taken now.
        drafts: Guess tokens of text that repeats itself and confirm several at once. Each is still chosen from the
            model's own logits, in order; but llama.cpp then tells no probabilities.

    Returns:
        An ``xllamacpp.Server``.

    Raises:
        ModelLoadError: llama.cpp cannot load it.
    """
    from xllamacpp import CommonParams, Server, common_speculative_type  # type: ignore[import-untyped]

    params = CommonParams()
    params.model.path = str(file)
    params.n_ctx = context_window
    params.n_parallel = 1  # one conversation has the whole context
    params.n_batch = params.n_ubatch = CHUNK_TOKENS
    params.warmup = False
    params.verbosity = 0
    params.cpuparams.n_threads = _cores()
    if drafts:
        params.speculative.types = [common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
        params.speculative.ngram_simple.size_n = _NGRAM_TOKENS
        params.speculative.ngram_simple.size_m = _DRAFT_TOKENS
    try:
        server = Server(params)
    except (RuntimeError, ValueError) as err:
        raise ModelLoadError(f"llama.cpp cannot load {str(file)!r}: {err}") from err
    # One token reads the weights into memory. And it has to be: a server that was never asked hangs when it ends.
    server.handle_completions({"prompt": [0], "n_predict": 1, "stream": True}, lambda chunk: False)
    return server


def _cores() -> int:
    """Physical cores this process may use: llama.cpp gets slower on the second thread of a core.

    ``OMP_NUM_THREADS`` limits it, as it does for torch: threads that wait for each other crawl on a busy machine.
    """
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    asked = int(limit) if limit.isdigit() and int(limit) > 0 else usable
    return max(1, min(usable, asked, psutil.cpu_count(logical=False) or usable))
