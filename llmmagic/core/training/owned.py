"""Keys of TRL and PEFT that cannot be set, and why: what they are about is done by llmmagic."""

from __future__ import annotations

_OURS = "llmmagic tokenises the data itself, so that training sees what the chat sends"
_SCREEN = "progress is shown by llmmagic"
_MODEL = "the model is the one that is loaded"
_HUB = "training uploads nothing"
_EVAL = "held-out rows are evaluated exactly, per token, in batches that fit into memory"
OWNED: dict[str, str] = {
    "assistant_only_loss": "use completion_only_loss: the loss is on the answers of any conversation",
    "auto_find_batch_size": "the batch is halved by itself when memory runs out",
    "batch_eval_metrics": _EVAL,
    "bf16_full_eval": _EVAL,
    "chat_template_path": _OURS,
    "dataset_kwargs": _OURS,
    "dataset_num_proc": _OURS,
    "dataset_text_field": f"{_OURS}; name the column with --map COLUMN=text",
    "disable_tqdm": _SCREEN,
    "do_eval": "give evaluation data instead",
    "do_predict": "it does nothing here",
    "do_train": "it does nothing here",
    "enable_jit_checkpoint": "a run that is stopped writes a checkpoint anyway",
    "eos_token": _OURS,
    "eval_accumulation_steps": _EVAL,
    "eval_do_concat_batches": _EVAL,
    "eval_on_start": "held-out rows are always evaluated before the first step",
    "eval_packing": _EVAL,
    "eval_use_gather_object": _EVAL,
    "fp16_full_eval": _EVAL,
    "hub_always_push": _HUB,
    "hub_model_id": _HUB,
    "hub_private_repo": _HUB,
    "hub_revision": _HUB,
    "hub_strategy": _HUB,
    "hub_token": _HUB,
    "include_for_metrics": _EVAL,
    "label_names": _OURS,
    "log_level": _SCREEN,
    "log_level_replica": _SCREEN,
    "logging_strategy": "use logging_steps",
    "model_init_kwargs": _MODEL,
    "pad_token": _OURS,
    "per_device_eval_batch_size": _EVAL,
    "prediction_loss_only": _EVAL,
    "push_to_hub": _HUB,
    "remove_unused_columns": _OURS,
    "resume_from_checkpoint": "use --resume",
    "shuffle_dataset": "rows are shuffled in every epoch anyway",
    "trust_remote_code": _MODEL,
    "truncation_mode": "what is over max_length is cut off at the end",
    "use_cpu": _MODEL,
}
"""Keys of TRL's configs that cannot be set, and why."""

OWNED_LORA: dict[str, str] = {
    "base_model_name_or_path": _MODEL,
    "inference_mode": "an adapter that is trained is not for inference only",
    "peft_type": "only LoRA is trained",
    "peft_version": "it is what is installed",
    "revision": _MODEL,
    "task_type": "it is CAUSAL_LM",
}
"""Keys of ``LoraConfig`` that cannot be set, and why."""
