"""The parameters of a decoder and their places in one flat buffer.

The buffer holds what is frozen, then the matrices that train, then the vectors that train: gradients and moments are
buffers of the trained part's length, and weight decay stops at one place. Within each part the order is the model's,
so q, k and v, and gate and up, lie side by side and each is one matrix to the arithmetic.
"""

from collections.abc import Collection, Mapping
from math import prod
from typing import NamedTuple

from mlxtune.models.dimensions import Dimensions
from mlxtune.models.shapes import EMBEDDING, FINAL_NORM, HEAD, Shape, layer_prefix, linears
from mlxtune.models.shapes import shapes as base_shapes
from mlxtune.strategies.selection import Anatomy, Parameter

FLOAT_BYTES = 4


class Layout(NamedTuple):
    """Where each parameter lies: buffer[begin : begin + size] has its shape."""

    places: Mapping[str, tuple[int, Shape]]  # name -> begin, shape; in the buffer's order
    trained: tuple[str, ...]  # in the model's order
    trained_begin: int
    vectors_begin: int  # of the trained vectors: norms and biases
    size: int


def anatomy(dimensions: Dimensions) -> Anatomy:
    """What a strategy has to know. Weights take four bytes here, whatever they are saved as."""
    return Anatomy(
        parameters={
            name: Parameter(shape, FLOAT_BYTES * prod(shape)) for name, shape in base_shapes(dimensions).items()
        },
        linears=linears(dimensions),
        layers=tuple(layer_prefix(layer) for layer in range(dimensions.n_layers)),
        head=None if dimensions.tied else HEAD,
        embedding=EMBEDDING,
        final_norm=(FINAL_NORM,),
    )


def lay_out(shapes: Mapping[str, Shape], trained: Collection[str]) -> Layout:
    """Places for the shapes, which are in the model's order.

    >>> lay_out({"a": (2, 2), "b": (3,), "c": (1, 2)}, ["b", "c"]).places
    {'a': (0, (2, 2)), 'c': (4, (1, 2)), 'b': (6, (3,))}
    """
    chosen = frozenset(trained)
    parts = (
        [name for name in shapes if name not in chosen],
        [name for name, shape in shapes.items() if name in chosen and len(shape) > 1],
        [name for name, shape in shapes.items() if name in chosen and len(shape) == 1],
    )
    places, begins, at = {}, [], 0
    for part in parts:
        begins.append(at)
        for name in part:
            places[name] = (at, shapes[name])
            at += prod(shapes[name])
    return Layout(places, tuple(name for name in shapes if name in chosen), begins[1], begins[2], at)
