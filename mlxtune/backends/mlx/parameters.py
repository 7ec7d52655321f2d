"""What trains, as flat tables of arrays, and one AdamW step over them. Everything here is lazy: nothing is evaluated.

A 16-bit weight is updated in float32 and goes back into 16 bits by stochastic rounding, or has a float32 master copy
that is rounded to the nearest.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlxtune.optim import adamw
from mlxtune.optim.adamw import AdamW, Moments
from mlxtune.optim.rounding import stochastic
from mlxtune.storage import Tensor, TensorInfo

DTYPE_NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}
Arrays = dict[str, mx.array]


class Trained(NamedTuple):
    """The arrays that change in a step. masters is empty unless 16-bit weights are kept that way."""

    weights: Arrays
    moments: dict[str, Moments]
    masters: Arrays

    def arrays(self) -> Iterator[mx.array]:
        """All of them, for the step's one evaluation."""
        yield from self.weights.values()
        for m, v in self.moments.values():
            yield m
            yield v
        yield from self.masters.values()


def begin(weights: Arrays, settings: AdamW) -> Trained:
    """Zero moments, and master copies where they are asked for. Evaluated, so that they are not made in the step."""
    moments = {name: adamw.init(mx, weight.shape) for name, weight in weights.items()}
    masters = {}
    if settings.low_precision == "master":
        masters = {name: w.astype(mx.float32) for name, w in weights.items() if w.dtype != mx.float32}
    trained = Trained(weights, moments, masters)
    mx.eval(*trained.arrays())
    return trained


def stepped(trained: Trained, gradients: Arrays, scalars: adamw.Scalars, settings: AdamW, key: mx.array) -> Trained:
    """The state after one AdamW step. gradients: float32, clipped. key: randomness of the rounding."""
    weights, moments, masters = {}, {}, {}
    keys = mx.random.split(key, len(gradients))
    for i, (name, old) in enumerate(trained.weights.items()):
        exact = trained.masters.get(name, old).astype(mx.float32)
        decays = adamw.decays(settings, old.shape)
        exact, moments[name] = adamw.update(mx, scalars, exact, gradients[name], trained.moments[name], decays=decays)
        if name in trained.masters:
            masters[name] = exact
        elif old.dtype != mx.float32:
            noise = mx.random.randint(0, 2**16, old.shape, dtype=mx.uint32, key=keys[i])
            exact = stochastic(mx, exact, str(old.dtype).rpartition(".")[2], noise)
        weights[name] = exact.astype(old.dtype)
    return Trained(weights, moments, masters)


def where(condition: mx.array, then: Trained, otherwise: Trained) -> Trained:
    """One state or the other, chosen inside the graph."""

    def pick(new: Arrays, old: Arrays) -> Arrays:
        return {name: mx.where(condition, array, old[name]) for name, array in new.items()}

    moments = {
        name: Moments(*(mx.where(condition, a, b) for a, b in zip(new, otherwise.moments[name], strict=True)))
        for name, new in then.moments.items()
    }
    return Trained(pick(then.weights, otherwise.weights), moments, pick(then.masters, otherwise.masters))


def weight_tensors(trained: Trained) -> Iterator[Tensor]:
    """The weights on their way to a file, in the model's order."""
    return (as_tensor(name, array) for name, array in trained.weights.items())


def optimizer_tensors(trained: Trained) -> Iterator[Tensor]:
    """Moments and master copies on their way to a file."""
    for name, (m, v) in trained.moments.items():
        yield as_tensor(f"{name}.m", m)
        yield as_tensor(f"{name}.v", v)
    for name, master in trained.masters.items():
        yield as_tensor(f"{name}.master", master)


def from_files(like: Trained, weights: Mapping[str, mx.array], optimizer: Mapping[str, mx.array]) -> Trained:
    """The state that `weight_tensors` and `optimizer_tensors` wrote, evaluated: the files may go away."""
    trained = Trained(
        {name: weights[name] for name in like.weights},
        {name: Moments(optimizer[f"{name}.m"], optimizer[f"{name}.v"]) for name in like.weights},
        {name: optimizer[f"{name}.master"] for name in like.masters},
    )
    mx.eval(*trained.arrays())
    return trained


def as_tensor(name: str, array: mx.array) -> Tensor:
    """An evaluated array as a Tensor that shares its memory."""

    def read() -> np.ndarray:
        return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array, copy=False)

    return Tensor(TensorInfo(name, DTYPE_NAMES[array.dtype], tuple(array.shape), array.nbytes), read)
