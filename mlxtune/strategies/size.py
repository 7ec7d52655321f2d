"""How much of a model a Selection trains, in tensors, parameters and bytes: arithmetic on shapes."""

from collections.abc import Iterable
from typing import NamedTuple

from mlxtune.strategies.selection import Anatomy, Parameter, Selection


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


def sizes(anatomy: Anatomy, selection: Selection, slot_bytes: int, master_bytes: int) -> Sizes:
    """The sizes of a run. Of its optimizer, slot_bytes: of one element; master_bytes: the same of a 16-bit weight.

    >>> from mlxtune.strategies.example import TWO_LAYERS
    >>> from mlxtune.strategies.last_n import LastN, select
    >>> sizes(TWO_LAYERS, select(LastN(last_n=1), TWO_LAYERS), 8, 0).trainable_parameters
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
        _optimizer_bytes(trained, slot_bytes, master_bytes),
        2 * _bytes(base.values()) + _optimizer_bytes(base.values(), slot_bytes, master_bytes),
    )


def _added(anatomy: Anatomy, selection: Selection) -> Iterable[Parameter]:
    if selection.untie_head:
        yield anatomy.parameters[anatomy.embedding]
    yield from (Parameter(array.shape, array.bytes) for adapter in selection.adapters for array in adapter.arrays)


def _count(parameters: Iterable[Parameter]) -> int:
    return sum(parameter.size for parameter in parameters)


def _bytes(parameters: Iterable[Parameter]) -> int:
    return sum(parameter.bytes for parameter in parameters)


def _optimizer_bytes(parameters: Iterable[Parameter], slot_bytes: int, master_bytes: int) -> int:
    return sum(
        parameter.size * (slot_bytes + (master_bytes if parameter.bytes < 4 * parameter.size else 0))
        for parameter in parameters
    )
