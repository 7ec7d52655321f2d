"""Tiny models with random weights, learners of them, and batches by hand: what the tests of a training step share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
from mlx.utils import tree_unflatten
from transformers import AutoConfig, AutoModelForCausalLM

from mlxtune.backends.base import Job
from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.learner import MlxLearner
from mlxtune.backends.mlx.update.parameters import Arrays
from mlxtune.backends.mlx.update.tensors import by_parameter
from mlxtune.data.types import Batch
from mlxtune.optim.adamw import AdamW
from mlxtune.strategies.choose import Strategy
from tests.support.batches import unpadded

VOCABULARY = 96
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def write_model(
    folder: Path, model_type: str = "llama", *, save_as: str = "float32", head_factor: float = 1.0, **changes: Any
) -> Path:
    """A model of random weights in Hugging Face format. Norms and biases are random too,."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SHAPE, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.lm_head.weight *= head_factor
    model = model.to(getattr(torch, save_as))
    (model.base_model if model_type == "gpt2" else model).save_pretrained(folder)  # as on the hub: "h.0.", no prefix
    return folder


def make_learner(folder: Path, strategy: Strategy, precision: str = "fp32", **changes: Any) -> MlxLearner:
    """A learner that is ready to step. changes: optimizer, clip_norm, seed."""
    settings: dict[str, Any] = {"optimizer": AdamW(), "clip_norm": 1.0, "seed": 0, **changes}
    return MlxBlueprint(Job(folder, precision, strategy, **settings)).learner()


def step_peak_bytes(learner: MlxLearner, batches: Sequence[Batch]) -> int:
    """Of one step, above what is held before it; the lowest of three, since MLX frees behind its worker threads."""
    peaks = []
    for _ in range(3):
        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        learner.step(batches, 1e-3)
        peaks.append(mx.get_peak_memory() - before)
    return min(peaks)


def in_one_piece(arrays: Arrays) -> Arrays:
    """Weights or gradients by their names in a file: those of a head in shards are put together."""
    return {name: mx.concatenate([*parts.values()]) for name, parts in by_parameter(arrays)}


def whole_model(learner: MlxLearner) -> nn.Module:
    """The learner's model with all its weights in it: while it trains, a head in shards is not."""
    learner.model.update(tree_unflatten([*in_one_piece(learner.trained.weights).items()]))
    return learner.model


def make_batch(seed: int, lengths: tuple[int, ...] = (24, 17, 9, 20), prompt: int = 4, width: int = 0) -> Batch:
    """Rows of random tokens padded with 0 to the longest, or to `width`; the first `prompt` tokens carry no loss."""
    random = np.random.default_rng(seed)
    width = width or max(lengths)
    places_T = np.arange(width)
    inside_BT = places_T < np.array(lengths)[:, None]
    tokens_BT = random.integers(3, VOCABULARY, (len(lengths), width)) * inside_BT
    return unpadded(tokens_BT, inside_BT & (places_T >= prompt), lengths)


def contents(learner: MlxLearner) -> dict[str, bytes]:
    """The bytes of everything that a step changes."""
    return {t.info.name: t.read().tobytes() for part in (learner.weights(), learner.optimizer_state()) for t in part}
