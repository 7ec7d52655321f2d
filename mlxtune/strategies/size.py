"""How much of a model a Selection trains, in tensors, parameters and bytes: arithmetic on shapes."""

from collections.abc import Iterable
from typing import NamedTuple

from mlxtune.strategies.selection import Anatomy, Parameter, Selection

MOMENT_BYTES = {"fp32": 8, "bf16": 4}  # m and v
MASTER_BYTES = 4  # a float32 copy of a 16-bit weight


class Sizes(NamedTuple):
    trainable_tensors: int
    trainable_parameters: int
    frozen_tensors: int
    frozen_parameters: int
    trainable_bytes: int
    frozen_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    full_bytes: int  # weights, gradients and optimizer state if all of the base model trained


def sizes(anatomy: Anatomy, selection: Selection, master: bool, moments: str = "fp32") -> Sizes:
    """The sizes of a run. master: whether 16-bit weights have float32 master copies. moments: what they are stored in.

    >>> from mlxtune.strategies.example import TWO_LAYERS
    >>> from mlxtune.strategies.last_n import LastN, select
    >>> sizes(TWO_LAYERS, select(LastN(last_n=1), TWO_LAYERS), master=False).trainable_parameters
    148
    """
    base = anatomy.parameters
    trained = [base[name] for name in selection.train] + list(_added(anatomy, selection))
    frozen = [parameter for name, parameter in base.items() if name not in set(selection.train)]
    return Sizes(
        len(trained),
        _count(trained),
        len(frozen),
        _count(frozen),
        _bytes(trained),
        _bytes(frozen),
        _bytes(trained),
        _optimizer_bytes(trained, master, moments),
        2 * _bytes(base.values()) + _optimizer_bytes(base.values(), master, moments),
    )


def _added(anatomy: Anatomy, selection: Selection) -> Iterable[Parameter]:
    if selection.untie_head:
        yield anatomy.parameters[anatomy.embedding]
    yield from (Parameter(array.shape, array.bytes) for adapter in selection.adapters for array in adapter.arrays)


def _count(parameters: Iterable[Parameter]) -> int:
    return sum(parameter.size for parameter in parameters)


def _bytes(parameters: Iterable[Parameter]) -> int:
    return sum(parameter.bytes for parameter in parameters)


def _optimizer_bytes(parameters: Iterable[Parameter], master: bool, moments: str) -> int:
    each = MOMENT_BYTES[moments]
    return sum(
        parameter.size * (each + (MASTER_BYTES if master and parameter.bytes < 4 * parameter.size else 0))
        for parameter in parameters
    )
