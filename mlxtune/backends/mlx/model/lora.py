"""LoRA and its kin on MLX: a module around each linear module, with the names of mlx-lm's adapters.

The module has `linear`, which it sits on, and the arrays of its kind by their names.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from mlxtune.adapters.adapter import Adapter
from mlxtune.adapters.kind import Shape


def _lora(module: "AdapterLinear", x: mx.array) -> mx.array:
    """y = linear(x) + scale * (dropout(x) @ a) @ b; the arrays are cast where they are used."""
    low_rank = module.dropped(x) @ module.lora_a.astype(x.dtype)
    return module.linear(x) + (module.scale * (low_rank @ module.lora_b.astype(x.dtype))).astype(x.dtype)


KINDS: Mapping[str, Callable[["AdapterLinear", mx.array], mx.array]] = {"lora": _lora}


class AdapterLinear(nn.Module):
    """A linear module and what an adapter adds to it.

    What dropout leaves out is a function of MLX's random state, which it does not advance, and of the adapter's number
    in the model: within one micro-batch it is the same whenever the layer is computed again.
    """

    def __init__(self, linear: nn.Module, adapter: Adapter, number: int, key: mx.array) -> None:
        super().__init__()
        self.linear, self.number, self.output = linear, number, KINDS[adapter.kind]
        self.scale, self.dropout = adapter.settings.scale, adapter.settings.dropout
        source = _Source(linear.weight, key)
        for array in adapter.arrays:
            setattr(self, array.name, array.start.values(source, array.shape))

    def __call__(self, x: mx.array) -> mx.array:
        return self.output(self, x)

    def dropped(self, x: mx.array) -> mx.array:
        """Without what dropout leaves out."""
        if not self.training or not self.dropout:
            return x
        state: Any = mx.random.state
        # Without the wait MLX draws masks of other layers early, and holds them.
        (key,) = mx.depends([state[0] + self.number], [mx.stop_gradient(x)])
        mask = mx.random.bernoulli(1 - self.dropout, x.shape, key=key)
        return (mask * x) * (1 / (1 - self.dropout))


class _Source:
    """The first array that is drawn has the adapter's key; each after it has a key of its own."""

    def __init__(self, weight: mx.array, key: mx.array) -> None:
        self.weight, self.key = weight.astype(mx.float32), key

    def uniform(self, bound: float, shape: Shape) -> mx.array:
        drawn = mx.random.uniform(-bound, bound, shape, key=self.key)
        self.key, _ = mx.random.split(self.key)
        return drawn

    def zeros(self, shape: Shape) -> mx.array:
        return mx.zeros(shape)


def attach(model: nn.Module, adapters: Iterable[Adapter], seed: int) -> None:
    """Put each adapter around its module. What an adapter starts from depends on the seed and its place alone."""
    modules = dict(model.named_modules())
    key = mx.random.key(seed)
    for number, adapter in enumerate(adapters):
        key, own = mx.random.split(key)
        wrapped = AdapterLinear(modules[adapter.module], adapter, number, own)
        model.update_modules(tree_unflatten([(adapter.module, wrapped)]))


def seed_dropout(seed: int, step: int, micro_batch: int) -> None:
    """What is left out from now on is a function of these three."""
    sequence = np.random.SeedSequence([seed, step, micro_batch])
    mx.random.seed(int(sequence.generate_state(1, np.uint64)[0]))
