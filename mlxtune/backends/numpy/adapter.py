"""Adapters of a model: what their arrays start from, and one from its folder into a model that is not changed.

Whole parameters take the places of the model's own. An adapter is added to the weight that it sits on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlxtune.adapters.adapter import FULL, KINDS, NAMES, Adapter, make, parameters
from mlxtune.adapters.folder import CONFIG, WEIGHTS, Saved
from mlxtune.adapters.kind import Settings, Shape
from mlxtune.backends.numpy.arrays import Array, Flat
from mlxtune.backends.numpy.weights import READABLE, fill
from mlxtune.errors import BadModel
from mlxtune.models.weights import TensorInfo, header

Tensors = dict[str, TensorInfo]


class _Source(NamedTuple):
    generator: np.random.Generator
    weight: Array

    def uniform(self, bound: float, shape: Shape) -> Array:
        return self.generator.uniform(-bound, bound, shape)

    def zeros(self, shape: Shape) -> Array:
        return np.zeros(shape, np.float32)


def begin(adapters: Sequence[Adapter], weights: Flat, seed: int) -> None:
    """Write what the adapters start from, which depends on the seed and an adapter's place."""
    generator = np.random.default_rng([seed, len(adapters)])
    for adapter in adapters:
        source = _Source(generator, weights[f"{adapter.module}.weight"])
        for name, array in parameters([adapter]).items():
            weights[name][...] = array.start.values(source, array.shape)


def apply(saved: Saved, weights: Flat) -> None:
    """Put an adapter that fits (`adapters.fit`) into the weights. Raises BadModel for what is only read on MLX."""
    tensors = header(saved.folder / WEIGHTS)
    if saved.settings is not None:
        _add(saved, saved.settings, tensors, weights)
        return
    if saved.kind != FULL:
        raise _other(saved.folder, CONFIG, f"fine_tune_type {' or '.join([*NAMES, FULL])}", saved.kind)
    for name, info in tensors.items():
        _check(saved.folder, name, info, weights[name].shape)
        fill(weights[name], info)


def _add(saved: Saved, settings: Settings, tensors: Tensors, weights: Flat) -> None:
    for module in sorted({name.rpartition(".")[0] for name in tensors}):
        weight_OI = weights[f"{module}.weight"]
        n_out, n_in = weight_OI.shape
        needed = parameters([make(saved.kind, module, (n_in, n_out), settings)])
        for name, array in needed.items():
            _check(saved.folder, name, tensors[name], array.shape)
        weight_OI += KINDS[saved.kind].delta(weight_OI, [_read(tensors[name]) for name in needed], settings)


def _read(info: TensorInfo) -> Array:
    array = np.empty(info.shape, np.float32)
    fill(array, info)
    return array


def _check(folder: Path, name: str, info: TensorInfo, shape: Shape) -> None:
    if info.shape != shape or info.dtype not in READABLE:
        raise _other(folder, name, f"shape {list(shape)}", f"{info.dtype} of shape {list(info.shape)}")


def _other(folder: Path, name: str, expected: str, found: str) -> BadModel:
    return BadModel(
        f"{folder}: {name}",
        expected=expected,
        found=found,
        remedy="Name with --model the model that the adapter was trained on.",
    )
