"""The keys of mlx-lm's training file: its defaults (mlx_lm/lora.py), what maps as it is, and what is refused."""

from collections.abc import Mapping
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "model": "Qwen/Qwen3-0.6b",
    "train": False,
    "fine_tune_type": "lora",
    "optimizer": "adam",
    "optimizer_config": {"adam": {}, "adamw": {}, "muon": {}, "sgd": {}, "adafactor": {}},
    "data": "mlx-community/WikiSQL",
    "seed": 0,
    "num_layers": 16,
    "batch_size": 4,
    "iters": 1000,
    "val_batches": 25,
    "learning_rate": 1e-5,
    "steps_per_report": 10,
    "steps_per_eval": 200,
    "resume_adapter_file": None,
    "adapter_path": "adapters",
    "save_every": 100,
    "test": False,
    "test_batches": 500,
    "max_seq_length": 2048,
    "config": None,
    "grad_checkpoint": False,
    "grad_accumulation_steps": 1,
    "clear_cache_threshold": 0,
    "lr_schedule": None,
    "lora_parameters": {"rank": 8, "dropout": 0.0, "scale": 20.0},
    "mask_prompt": False,
    "report_to": None,
    "project_name": None,
    "trust_remote_code": False,
    # What the data part of mlx-lm reads besides:
    "hf_dataset": None,
    "prompt_feature": "prompt",
    "completion_feature": "completion",
    "text_feature": "text",
    "chat_feature": "messages",
}

SAME: Mapping[str, str] = {
    "model": "model.name",
    "data": "data.path",
    "max_seq_length": "data.max_seq_length",
    "batch_size": "train.batch_size",
    "seed": "train.seed",
    "adapter_path": "run.out",
    "grad_checkpoint": "backend.grad_checkpoint",
}

# In mlx-lm these count micro-batches, here optimizer steps.
IN_ITERATIONS: Mapping[str, str] = {
    "iters": "train.max_steps",
    "steps_per_eval": "train.eval_every",
    "save_every": "checkpoint.save_every",
}

# Keys that are refused unless they have mlx-lm's default, where they do nothing; and what to do instead.
REFUSED: Mapping[str, str] = {
    "resume_adapter_file": "Fuse the adapter into the model first (mlx_lm.fuse), and train that model.",
    "test": "Take it out, and run `mlxtune eval` on the test file afterwards.",
    "config": "A file cannot name another one. Take it out.",
    "clear_cache_threshold": "Take it out: mlx-lm does not read it from a file either.",
    "report_to": "Take it out: every step is a line of metrics.jsonl in the run's folder.",
    "project_name": "Take it out: every step is a line of metrics.jsonl in the run's folder.",
    "trust_remote_code": "Take it out: code that comes with a model is never run.",
    "hf_dataset": "Give the data set's hub id, or a file of its rows, as `data`.",
    "prompt_feature": "Rename the column to prompt.",
    "completion_feature": "Rename the column to completion.",
    "text_feature": "Rename the column to text.",
    "chat_feature": "Rename the column to messages.",
}

ALWAYS = (
    "mlx-lm rounds every update to the weights' 16 bits; here small updates are kept, by stochastic rounding.",
    "Every row is seen once an epoch, the last partial batch included, which mlx-lm drops.",
)
