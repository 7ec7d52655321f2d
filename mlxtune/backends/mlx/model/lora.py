"""The LoRA module of the MLX backend, with the parameter names of mlx-lm's adapters: linear, lora_a, lora_b."""

import math
from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from mlxtune.strategies.selection import LoraAdapter


class LoraLinear(nn.Module):
    """y = linear(x) + scale * (dropout(x) @ a) @ b, with a (in, rank) and b (rank, out).

    What dropout leaves out is a function of MLX's random state, which it does not advance, and of the adapter's number
    in the model: within one micro-batch it is the same whenever the layer is computed again.

    a and b are float32 whatever the model's precision, and are cast where they are used: they are small, and so every
    update counts. a is uniform in +-1/sqrt(in), b is zero.
    """

    def __init__(self, linear: nn.Linear, adapter: LoraAdapter, number: int, key: mx.array) -> None:
        super().__init__()
        n_in, n_out = adapter.shape
        bound = 1 / math.sqrt(n_in)
        self.linear = linear
        self.scale, self.dropout, self.number = adapter.scale, adapter.dropout, number
        self.lora_a = mx.random.uniform(-bound, bound, (n_in, adapter.rank), key=key)
        self.lora_b = mx.zeros((adapter.rank, n_out))

    def __call__(self, x: mx.array) -> mx.array:
        low_rank = self._dropped(x) @ self.lora_a.astype(x.dtype)
        return self.linear(x) + (self.scale * (low_rank @ self.lora_b.astype(x.dtype))).astype(x.dtype)

    def _dropped(self, x: mx.array) -> mx.array:
        if not self.training or not self.dropout:
            return x
        state: Any = mx.random.state
        # Without the wait MLX draws masks of other layers early, and holds them.
        (key,) = mx.depends([state[0] + self.number], [mx.stop_gradient(x)])
        mask = mx.random.bernoulli(1 - self.dropout, x.shape, key=key)
        return (mask * x) * (1 / (1 - self.dropout))


def attach(model: nn.Module, adapters: Iterable[LoraAdapter], seed: int) -> None:
    """Put each adapter around its module. What an adapter starts from depends on the seed and its place alone."""
    modules = dict(model.named_modules())
    key = mx.random.key(seed)
    for number, adapter in enumerate(adapters):
        key, own = mx.random.split(key)
        wrapped = LoraLinear(modules[adapter.module], adapter, number, own)
        model.update_modules(tree_unflatten([(adapter.module, wrapped)]))


def seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """What is left out from now on is a function of these three."""
    sequence = np.random.SeedSequence([seed, step, micro_batch])
    mx.random.seed(int(sequence.generate_state(1, np.uint64)[0]))
