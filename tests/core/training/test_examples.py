from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmmagic.core.errors import DataFormatError
from llmmagic.core.models.loaded import LoadedModel
from llmmagic.core.training.examples import MASKED, Example, ExampleMaker, LossOn, make_examples_like_chat
from llmmagic.core.training.formats import Sample
from llmmagic.core.training.llama2 import parse_llama2

QUESTION = {"role": "user", "content": "Who?"}
ANSWER = {"role": "assistant", "content": "Me."}
TURNS = (QUESTION, ANSWER, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."})
SYSTEM = {"role": "system", "content": "Be brief."}


def maker(loaded: LoadedModel, *, max_length: int = 512, loss_on: LossOn = "answers") -> ExampleMaker:
    return make_examples_like_chat(loaded.model, loaded.tokenizer, max_length=max_length, loss_on=loss_on)


def text_of(loaded: LoadedModel, ids: list[int]) -> str:
    return str(loaded.tokenizer.decode(ids))


def trained(loaded: LoadedModel, example: Example) -> str:
    return text_of(loaded, [label for label in example.labels if label != MASKED])


@pytest.mark.parametrize("model", ["tiny", "llama2"])
def test_ids_are_those_of_the_chat_template_and_only_answers_are_trained(
    model: str, request: pytest.FixtureRequest
) -> None:
    loaded: LoadedModel = request.getfixturevalue(model)
    end = loaded.tokenizer.eos_token
    (example,) = maker(loaded).make(Sample(1, messages=(SYSTEM, *TURNS)))
    whole = loaded.tokenizer.apply_chat_template([SYSTEM, *TURNS], tokenize=True)["input_ids"]
    assert example.input_ids == whole
    expected = {"tiny": f"Me.{end}Because.{end}", "llama2": f" Me. {end} Because. {end}"}[model]
    assert trained(loaded, example) == expected
    # What the chat would send before the last answer is the beginning of what is trained on.
    prompt = loaded.tokenizer.apply_chat_template([SYSTEM, *TURNS[:3]], tokenize=True, add_generation_prompt=True)
    size = len(prompt["input_ids"])
    assert example.input_ids[:size] == prompt["input_ids"]
    assert example.labels[size] == example.input_ids[size] != MASKED


def test_llama2_text_on_a_tokenizer_that_adds_bos_has_one_bos_and_one_end(llama2: LoadedModel) -> None:
    text = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWho? [/INST] Me. </s> "
    naive = llama2.tokenizer(text)["input_ids"]
    assert naive[:2] == [llama2.tokenizer.bos_token_id] * 2  # the trap: what the tokenizer makes of it by itself
    (example,) = maker(llama2).make(Sample(1, messages=tuple(parse_llama2(text))))
    assert example.input_ids.count(llama2.tokenizer.bos_token_id) == 1
    assert example.input_ids.count(llama2.tokenizer.eos_token_id) == 1
    assert example.labels[-1] == llama2.tokenizer.eos_token_id


@pytest.mark.parametrize("text", ["Once.", "<s>Once.</s>", "<s> <s>Once. </s> ", "Once.</s></s>"])
def test_plain_text_has_one_bos_and_one_end_whatever_it_brings_along(llama2: LoadedModel, text: str) -> None:
    (example,) = maker(llama2).make(Sample(1, text=text))
    assert text_of(llama2, example.input_ids) == "<s>Once.</s>"
    assert example.labels == example.input_ids


def test_loss_on_all_trains_the_question_too(tiny: LoadedModel) -> None:
    (example,) = maker(tiny, loss_on="all").make(Sample(1, messages=TURNS))
    assert example.labels[:-1] == example.input_ids[:-1]
    # The newline after the end token is written by the template in any case.
    assert (example.labels[-2], example.labels[-1]) == (tiny.tokenizer.eos_token_id, MASKED)


def test_what_the_template_writes_after_the_end_token_is_not_trained(tiny: LoadedModel) -> None:
    (example,) = maker(tiny).make(Sample(1, messages=(QUESTION, ANSWER)))
    assert text_of(tiny, example.input_ids).endswith("<|im_end|>\n")
    assert example.labels[-1] == MASKED
    assert example.labels[-2] == tiny.tokenizer.eos_token_id


def test_a_template_without_an_end_token_gets_one(tiny: LoadedModel) -> None:
    tiny.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    examples = maker(tiny).make(Sample(1, messages=TURNS))
    assert [trained(tiny, example) for example in examples] == ["Me.\n<|im_end|>", "Because.\n<|im_end|>"]
    assert text_of(tiny, examples[1].input_ids).startswith("user: Who?\nassistant: Me.\nuser: Why?\nassistant: ")


def test_a_template_that_rewrites_history_is_split_into_what_the_chat_sends(tiny: LoadedModel) -> None:
    """Reasoning models drop earlier thoughts: the prompt of turn 2 is no continuation of turn 1."""
    tiny.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' and not loop.last %}"
        "{{ 'A:' + m['content'].split('</think>')[-1] + eos_token }}"
        "{% else %}{{ m['role'][0] | upper + ':' + m['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'A:' }}{% endif %}"
    )
    thinking = {"role": "assistant", "content": "<think>hm</think>Me."}
    messages = (QUESTION, thinking, *TURNS[2:])
    examples = maker(tiny).make(Sample(1, messages=messages))
    assert [trained(tiny, e) for e in examples] == ["<think>hm</think>Me.<|im_end|>", "Because.<|im_end|>"]
    prompt = tiny.tokenizer.apply_chat_template(list(messages[:3]), tokenize=True, add_generation_prompt=True)
    assert examples[1].input_ids[: len(prompt["input_ids"])] == prompt["input_ids"]


def test_a_prompt_that_ends_differently_once_answered_still_begins_like_the_chat(tiny: LoadedModel) -> None:
    tiny.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:<think>' }}{% endif %}"
    )
    (example,) = maker(tiny).make(Sample(1, messages=(QUESTION, ANSWER)))
    assert text_of(tiny, example.input_ids) == "u:Who?<|im_end|>a:<think>Me.<|im_end|>"
    assert trained(tiny, example) == "Me.<|im_end|>"


def test_a_template_without_system_prompts_gets_it_in_the_first_question(tiny: LoadedModel) -> None:
    tiny.tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
    )
    (example,) = maker(tiny).make(Sample(1, messages=(SYSTEM, QUESTION, ANSWER)))
    assert text_of(tiny, example.input_ids).startswith("u:Be brief.\n\nWho?<|im_end|>a:Me.")


def test_a_token_that_spans_prompt_and_answer_is_split_as_in_the_chat() -> None:
    """With merges, the ids of the whole need not begin with the ids of the prompt."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"</s>": 0, ":": 1, "M": 2, ":M": 3, "e": 4, "Q": 5}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[(":", "M")]))
    backend.pre_tokenizer = pre_tokenizers.Split("~", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = (
        "Q:{% for m in messages %}{{ m['content'] + (eos_token if m['role'] == 'assistant' else '') }}{% endfor %}"
    )
    example_maker = make_examples_like_chat(None, tokenizer, max_length=64)
    messages = ({"role": "user", "content": ":"}, {"role": "assistant", "content": "Me"})
    (example,) = example_maker.make(Sample(1, messages=messages))
    assert tokenizer(":M", add_special_tokens=False)["input_ids"] == [3]
    assert example.input_ids == [5, 1, 1, 2, 4, 0]
    assert example.labels == [MASKED] * 3 + [2, 4, 0]


def test_truncation_cuts_the_end_and_is_counted(tiny: LoadedModel) -> None:
    sample = Sample(1, messages=(QUESTION, {"role": "assistant", "content": "x" * 100}))
    (whole,) = maker(tiny).make(sample)
    (cut,) = maker(tiny, max_length=50).make(sample)
    assert cut.input_ids == whole.input_ids[:50]
    assert cut.labels == whole.labels[:50]
    assert cut.cut_tokens == len(whole.input_ids) - 50
    assert maker(tiny, max_length=8).make(sample) == []  # nothing of the answer is left


def test_a_template_that_refuses_a_row_names_it(llama2: LoadedModel) -> None:
    with pytest.raises(DataFormatError, match=r"Row 7: The model's chat template refuses .* must alternate"):
        maker(llama2).make(Sample(7, messages=(QUESTION, QUESTION, ANSWER)))


def test_what_trl_feeds_the_model_is_what_was_made(llama2: LoadedModel, tmp_path: Path) -> None:
    """The batch that comes out of TRL's own collator, padding aside, is token for token ours."""
    import datasets
    from peft import LoraConfig

    from llmmagic.core.operation import CancelToken
    from llmmagic.core.training.adapter import attach
    from llmmagic.core.training.checkpoints import Checkpoints
    from llmmagic.core.training.guard import lent_model
    from llmmagic.core.training.methods.sft_trainer import TokenTrainer
    from llmmagic.core.training.options import Compute, make_sft_config
    from llmmagic.core.training.trainer import Progress, Wiring

    examples = [
        example
        for messages in (TURNS, (SYSTEM, QUESTION, ANSWER))
        for example in maker(llama2).make(Sample(1, messages=tuple(messages)))
    ]
    dataset = datasets.Dataset.from_dict(
        {"input_ids": [e.input_ids for e in examples], "labels": [e.labels for e in examples]}
    )
    args = make_sft_config({"output_dir": str(tmp_path), "max_length": 16}, {}, Compute("cpu", "float32"))
    with lent_model(llama2):
        model = attach(llama2, "adapter", LoraConfig(task_type="CAUSAL_LM"), {}).model
        trainer = TokenTrainer(
            model,
            args,
            dataset,
            None,
            llama2.tokenizer,
            wiring=Wiring(
                checkpoints=Checkpoints(tmp_path, 2, {}),
                progress=Progress(lambda event: None, CancelToken(), checkpoint_s=0),
                measure=lambda step: {},
                emit=lambda event: None,
                cancel=CancelToken(),
            ),
        )
        (batch,) = trainer.get_train_dataloader()
        # pad = eos here: the end token that was taught keeps its label, the padding has none.
        assert llama2.tokenizer.pad_token == llama2.tokenizer.eos_token
    assert llama2.tokenizer.pad_token is None
    rows = []
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        size = int(mask.sum())
        rows.append((ids[:size].tolist(), labels[:size].tolist()))
        assert labels[size:].eq(MASKED).all()
    assert sorted(rows) == sorted((e.input_ids, e.labels) for e in examples)
    assert all(labels[-1] == llama2.tokenizer.eos_token_id for _, labels in rows)
