"""A linear module, y = x W' + bias, and what adapters add to parts of it.

N tokens, I inputs, O outputs. W may be several modules side by side (q, k and v; gate and up); an adapter sits on the
columns of y that are its module's.
"""

from typing import NamedTuple, Protocol

import numpy as np

from mlxtune.backends.numpy.arrays import Array, Workspace
from mlxtune.backends.numpy.dropout import Dropout


class Beside(Protocol):
    """An adapter. Arrays have the module's order in memory, tokens or features first. dropout: None without."""

    def output(self, x_NI: Array, out_NO: Array, dropout: Dropout | None, ws: Workspace) -> None:
        """Adds to y."""
        ...

    def input_gradient(self, gradient_NO: Array, out_NI: Array, dropout: Dropout | None, ws: Workspace) -> None:
        """Adds to the gradient of x."""
        ...

    def own_gradients(self, gradient_NO: Array, x_NI: Array, dropout: Dropout | None, ws: Workspace) -> None:
        """Writes the gradients of the adapter's arrays."""
        ...


class Linear(NamedTuple):
    weight_OI: Array
    bias_O: Array | None
    weight_gradient: Array | None  # None where frozen
    bias_gradient: Array | None
    adapters: tuple[Beside, ...]


def linear(x_NI: Array, module: Linear, out_NO: Array, dropout: Dropout | None, ws: Workspace) -> Array:
    """Writes y and gives it."""
    np.matmul(x_NI, module.weight_OI.T, out=out_NO)
    if module.bias_O is not None:
        out_NO += module.bias_O
    for adapter in module.adapters:
        adapter.output(x_NI, out_NO, dropout, ws)
    return out_NO


def input_gradient(gradient_NO: Array, module: Linear, out_NI: Array, dropout: Dropout | None, ws: Workspace) -> Array:
    """Writes the gradient of x and gives it."""
    np.matmul(gradient_NO, module.weight_OI, out=out_NI)
    for adapter in module.adapters:
        adapter.input_gradient(gradient_NO, out_NI, dropout, ws)
    return out_NI


def weight_gradients(gradient_NO: Array, x_NI: Array, module: Linear, dropout: Dropout | None, ws: Workspace) -> None:
    """Writes the gradients of what trains of the module."""
    if module.weight_gradient is not None:
        np.matmul(gradient_NO.T, x_NI, out=module.weight_gradient)
    if module.bias_gradient is not None:
        np.add.reduce(gradient_NO, 0, out=module.bias_gradient)
    for adapter in module.adapters:
        adapter.own_gradients(gradient_NO, x_NI, dropout, ws)
