"""What trains on its way to a file and back. A parameter that is kept in shards is whole in a file."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.update.parameters import Arrays, Trained
from mlxtune.optim.optimizer import Optimizer
from mlxtune.storage.files import Tensor, TensorInfo

DTYPE_NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}
SHARD = "#"  # between a parameter's name and the number of its shard


def shard_names(name: str, count: int) -> list[str]:
    """Of the parts that a parameter is kept in.

    >>> shard_names("lm_head.weight", 2)
    ['lm_head.weight#0000', 'lm_head.weight#0001']
    """
    return [f"{name}{SHARD}{number:04d}" for number in range(count)]


def by_parameter(arrays: Mapping[str, mx.array]) -> Iterator[tuple[str, Arrays]]:
    """Each parameter's name in a file, and what it is kept in: one array, or its shards in order."""
    for name, group in groupby(arrays.items(), key=lambda item: item[0].partition(SHARD)[0]):
        yield name, dict(group)


def weight_tensors(trained: Trained) -> Iterator[Tensor]:
    """The weights, in the model's order."""
    return (as_tensor(name, [*arrays.values()]) for name, arrays in by_parameter(trained.weights))


def optimizer_tensors(trained: Trained, optimizer: Optimizer) -> Iterator[Tensor]:
    """Slots under their names, and master copies."""
    for name, arrays in by_parameter(trained.weights):
        for place, slot in enumerate(optimizer.slots):
            yield as_tensor(f"{name}.{slot}", [trained.slots[key][place] for key in arrays])
    for name, arrays in by_parameter(trained.masters):
        yield as_tensor(f"{name}.master", [*arrays.values()])


def from_files(
    like: Trained, optimizer: Optimizer, weights: Mapping[str, mx.array], state: Mapping[str, mx.array]
) -> Trained:
    """The state that `weight_tensors` and `optimizer_tensors` wrote, evaluated: the files may go away."""
    slots = [_parts(like.weights, state, f".{slot}") for slot in optimizer.slots]
    of_each = {name: tuple(parts[name] for parts in slots) for name in like.weights}
    trained = Trained(_parts(like.weights, weights), of_each, _parts(like.masters, state, ".master"))
    mx.eval(*trained.arrays())
    return trained


def _parts(like: Arrays, arrays: Mapping[str, mx.array], ending: str = "") -> Arrays:
    """A file's arrays, cut as `like` is."""
    found: Arrays = {}
    for name, parts in by_parameter(like):
        start = 0
        for key, part in parts.items():
            found[key] = arrays[name + ending]
            if len(parts) > 1:
                found[key] = mx.contiguous(found[key][start : start + len(part)])
                start += len(part)
    return found


def as_tensor(name: str, arrays: Sequence[mx.array]) -> Tensor:
    """An evaluated array, or its shards one after the other, as a Tensor. One array shares its memory."""
    first = arrays[0]
    shape = tuple(first.shape) if len(arrays) == 1 else (sum(map(len, arrays)), *first.shape[1:])

    def read() -> np.ndarray:
        words = [np.array(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a, copy=False) for a in arrays]
        return words[0] if len(words) == 1 else np.concatenate(words)

    return Tensor(TensorInfo(name, DTYPE_NAMES[first.dtype], shape, sum(a.nbytes for a in arrays)), read)
