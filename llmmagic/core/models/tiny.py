"""``tiny-random``: a complete chat model that is made on the spot.

Two Llama layers with random weights, a byte-level tokenizer (one token per byte) and a ChatML template. It says nothing
sensible, but everything about it is real: tests run on it, and pre-training can start from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
# ChatML, as in https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md
CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CONTEXT_WINDOW = 2048
SEED = 0


def make_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer with one token per byte and three special ones.

    Returns:
        A fast tokenizer with V = 259; its end-of-sequence token is the end-of-message token.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # Registered in the backend: naming them in the wrapper alone does not make them tokens.
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (PAD, START, END)])
    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        model_max_length=CONTEXT_WINDOW,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML_TEMPLATE
    return tokenizer


def make_model(tokenizer: PreTrainedTokenizerBase, *, seed: int = SEED) -> PreTrainedModel:
    """A two-layer Llama with random float32 weights.

    Args:
        tokenizer: Gives V and the special tokens.
        seed: The same seed gives the same weights; the global random state is left as it was.

    Returns:
        The model, on the CPU, in evaluation mode.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_WINDOW,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = LlamaForCausalLM(config)
    return model.eval()


def save_tiny(folder: Path, *, seed: int = SEED) -> Path:
    """Write the tiny model as a Transformers folder.

    Args:
        folder: Made if it is not there.
        seed: Of the weights.

    Returns:
        The folder.
    """
    tokenizer = make_tokenizer()
    make_model(tokenizer, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
