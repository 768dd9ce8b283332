"""What the model libraries say that helps no user, by its exact words. Everything else they say is let through."""

from __future__ import annotations

import logging
import warnings

_LOGGED = {
    # int8 layers cast their input, which is how they work, and say so at every call.
    "bitsandbytes.autograd._functions": "inputs will be cast",
    # An optional download for CPUs with AVX512-BF16, for a kernel that is switched off here (see `settle_layers`).
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
}
_WARNED = r"`is_gradient_checkpointing` is deprecated"  # PEFT asks transformers for it


class _Without(logging.Filter):
    """Drops the records that contain a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def filter(self, record: logging.LogRecord) -> bool:
        return self.text not in record.getMessage()


def silence_known_noise() -> None:
    """From now on, drop the messages listed in this module. May be called again at no cost."""
    for name, text in _LOGGED.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Without) and known.text == text for known in logger.filters):
            logger.addFilter(_Without(text))
    warnings.filterwarnings("ignore", message=_WARNED, category=FutureWarning)
