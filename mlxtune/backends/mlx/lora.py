"""The LoRA module of the MLX backend, with the parameter names of mlx-lm's adapters: linear, lora_a, lora_b."""

import math
from collections.abc import Iterable

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlxtune.strategies.selection import LoraAdapter


class LoraLinear(nn.Module):
    """y = linear(x) + scale * (dropout(x) @ a) @ b, with a (in, rank) and b (rank, out).

    a and b are float32 whatever the model's precision, and are cast where they are used: they are small, and so every
    update counts. a is uniform in +-1/sqrt(in), b is zero.
    """

    def __init__(self, linear: nn.Linear, adapter: LoraAdapter, key: mx.array) -> None:
        super().__init__()
        n_in, n_out = adapter.shape
        bound = 1 / math.sqrt(n_in)
        self.linear = linear
        self.dropout = nn.Dropout(adapter.dropout)
        self.scale = adapter.scale
        self.lora_a = mx.random.uniform(-bound, bound, (n_in, adapter.rank), key=key)
        self.lora_b = mx.zeros((adapter.rank, n_out))

    def __call__(self, x: mx.array) -> mx.array:
        low_rank = self.dropout(x) @ self.lora_a.astype(x.dtype)
        return self.linear(x) + (self.scale * (low_rank @ self.lora_b.astype(x.dtype))).astype(x.dtype)


def attach(model: nn.Module, adapters: Iterable[LoraAdapter], seed: int) -> None:
    """Put each adapter around its module. What an adapter starts from depends on the seed and its place alone."""
    modules = dict(model.named_modules())
    key = mx.random.key(seed)
    for adapter in adapters:
        key, own = mx.random.split(key)
        wrapped = LoraLinear(modules[adapter.module], adapter, own)
        model.update_modules(tree_unflatten([(adapter.module, wrapped)]))
