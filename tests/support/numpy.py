"""Random models of the Llama family, small enough to compare whole, and their oracle, transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.backends.base import Job
from mlxtune.backends.numpy import config
from mlxtune.backends.numpy.blueprint import NumpyBlueprint
from mlxtune.backends.numpy.learner import NumpyLearner
from mlxtune.backends.numpy.weights import as_tensor, round_to
from mlxtune.data.types import Batch
from mlxtune.models.shapes import shapes
from mlxtune.optim.adamw import AdamW
from mlxtune.storage.files import Tensor, write_tensors
from mlxtune.strategies.full import Full
from tests.support.batches import unpadded

BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama, no groups": {"model_type": "llama", "num_key_value_heads": 4},
    "llama, one key head, biases": {"model_type": "llama", "num_key_value_heads": 1, "attention_bias": True},
    "llama, head_dim": {"model_type": "llama", "head_dim": 24},
    "llama, linear": {"model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "llama, llama3": {"model_type": "llama", "rope_scaling": LLAMA3},
    "llama, yarn": {"model_type": "llama", "rope_scaling": YARN, "head_dim": 16},
    "llama, new spelling": {"model_type": "llama", "rope_parameters": {**YARN, "rope_theta": 500.0}},
    "llama, both spellings": {
        "model_type": "llama",
        "rope_scaling": LLAMA3,
        "rope_parameters": {**YARN, "rope_theta": 500.0},
    },
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral, short window": {"model_type": "mistral", "sliding_window": 9},
    "mistral, long window": {"model_type": "mistral", "sliding_window": 70},
    "qwen2": {"model_type": "qwen2"},
    "qwen2, tied, yarn": {"model_type": "qwen2", "tie_word_embeddings": True, "rope_scaling": YARN},
    "qwen2, windows": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 20,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3, tied": {"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True, "num_key_value_heads": 4},
}


def write_model(folder: Path, precision: str = "fp32", **changes: Any) -> Path:
    """A random model in Hugging Face format, its norms not one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**BASE, **changes}))
    write_tensors(folder / "model.safetensors", tensors(random_weights(config.read(folder)), precision))
    return folder


def random_weights(decoder: config.Decoder) -> dict[str, np.ndarray[Any, Any]]:
    """Weights that make every part count."""
    random = np.random.default_rng(0)
    return {
        name: (random.normal(size=shape) * 0.2 + (name.endswith("norm.weight"))).astype(np.float32)
        for name, shape in shapes(decoder).items()
    }


def tensors(arrays: dict[str, np.ndarray[Any, Any]], precision: str = "fp32") -> list[Tensor]:
    """Arrays on their way to a file, rounded to a precision."""
    for array in arrays.values():
        round_to(array, precision)
    return [as_tensor(name, array, precision) for name, array in arrays.items()]


def torch_model(folder: Path) -> Any:
    """transformers' model of a folder, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def random_batch(n_rows: int = 3, n_tokens: int = 80, vocab_size: int = 61, seed: int = 0) -> Batch:
    """Ragged rows, padded at the end; some tokens carry loss."""
    random = np.random.default_rng(seed)
    lengths = random.integers(n_tokens // 2, n_tokens + 1, n_rows).astype(np.int32)
    lengths[0] = n_tokens
    tokens = random.integers(0, vocab_size, (n_rows, n_tokens)).astype(np.int32)
    supervised = random.random((n_rows, n_tokens)) < 0.6
    supervised[:, 0] = False
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
        supervised[row, length:] = False
    return unpadded(tokens, supervised, lengths.tolist())


def job(folder: Path, strategy: Any = None, precision: str = "fp32", **changes: Any) -> Job:
    """A Job of a full training in fp32, but for what is said."""
    settings = {"optimizer": AdamW(), "clip_norm": None, "seed": 0, **changes}
    return Job(folder=folder, precision=precision, strategy=strategy or Full(), **settings)


def learner(folder: Path, strategy: Any = None, precision: str = "fp32", **changes: Any) -> NumpyLearner:
    """A NumpyLearner with its weights read."""
    return NumpyBlueprint(job(folder, strategy, precision, **changes)).learner()


def worst(found: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest expected entry."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())
