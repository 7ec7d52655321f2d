"""A linear module, y = x W' + bias, with low-rank adapters beside parts of it: y[:, columns] += s (drop(x) a) b.

N tokens, I inputs, O outputs, r rank. W may be several modules side by side (q, k and v; gate and up); an adapter names
the columns of y that are its module's.
"""

from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy.arrays import Array, Workspace
from mlxtune.backends.numpy.dropout import Dropout


class LowRank(NamedTuple):
    columns: slice
    a_Ir: Array
    b_rO: Array
    a_gradient: Array
    b_gradient: Array
    scale: float
    dropout: float  # rate
    number: int  # its place among the model's adapters: the stream of its dropout


class Linear(NamedTuple):
    weight_OI: Array
    bias_O: Array | None
    weight_gradient: Array | None  # None where frozen
    bias_gradient: Array | None
    adapters: tuple[LowRank, ...]


def linear(x_NI: Array, module: Linear, out_NO: Array, dropout: Dropout | None, ws: Workspace) -> Array:
    """Writes y and gives it."""
    np.matmul(x_NI, module.weight_OI.T, out=out_NO)
    if module.bias_O is not None:
        out_NO += module.bias_O
    for adapter in module.adapters:
        low_Nr = _low(x_NI, adapter, dropout, ws)
        part_NO = np.matmul(low_Nr, adapter.b_rO, out=_ordered_as(out_NO, "low_out", adapter.b_rO.shape[1], ws))
        part_NO *= adapter.scale
        out_NO[:, adapter.columns] += part_NO
    return out_NO


def input_gradient(gradient_NO: Array, module: Linear, out_NI: Array, dropout: Dropout | None, ws: Workspace) -> Array:
    """Writes the gradient of x and gives it."""
    np.matmul(gradient_NO, module.weight_OI, out=out_NI)
    for adapter in module.adapters:
        low_Nr = _low_gradient(gradient_NO, adapter, ws)
        part_NI = np.matmul(low_Nr, adapter.a_Ir.T, out=_ordered_as(out_NI, "low_in", out_NI.shape[1], ws))
        if dropout is not None and adapter.dropout:
            part_NI *= _mask(out_NI, adapter, dropout, ws)
        out_NI += part_NI
    return out_NI


def weight_gradients(gradient_NO: Array, x_NI: Array, module: Linear, dropout: Dropout | None, ws: Workspace) -> None:
    """Writes the gradients of what trains of the module."""
    if module.weight_gradient is not None:
        np.matmul(gradient_NO.T, x_NI, out=module.weight_gradient)
    if module.bias_gradient is not None:
        np.add.reduce(gradient_NO, 0, out=module.bias_gradient)
    for adapter in module.adapters:
        low_Nr = _low(x_NI, adapter, dropout, ws)
        low_Nr *= adapter.scale
        np.matmul(low_Nr.T, gradient_NO[:, adapter.columns], out=adapter.b_gradient)
        low_gradient_Nr = _low_gradient(gradient_NO, adapter, ws)
        np.matmul(_dropped(x_NI, adapter, dropout, ws).T, low_gradient_Nr, out=adapter.a_gradient)


def _low(x_NI: Array, adapter: LowRank, dropout: Dropout | None, ws: Workspace) -> Array:
    x_NI = _dropped(x_NI, adapter, dropout, ws)
    return np.matmul(x_NI, adapter.a_Ir, out=ws("low", len(x_NI), adapter.a_Ir.shape[1]))


def _low_gradient(gradient_NO: Array, adapter: LowRank, ws: Workspace) -> Array:
    low_Nr = np.matmul(
        gradient_NO[:, adapter.columns], adapter.b_rO.T, out=ws("d_low", len(gradient_NO), len(adapter.b_rO))
    )
    low_Nr *= adapter.scale
    return low_Nr


def _dropped(x_NI: Array, adapter: LowRank, dropout: Dropout | None, ws: Workspace) -> Array:
    if dropout is None or not adapter.dropout:
        return x_NI
    mask_NI = _mask(x_NI, adapter, dropout, ws)
    mask_NI *= x_NI
    return mask_NI


def _mask(of_NI: Array, adapter: LowRank, dropout: Dropout, ws: Workspace) -> Array:
    """Drawn in the array's order: an input and its gradient have the same."""
    mask_NI = _ordered_as(of_NI, "mask", of_NI.shape[1], ws)
    dropout.mask(adapter.number, adapter.dropout, mask_NI if mask_NI.flags.c_contiguous else mask_NI.T)
    return mask_NI


def _ordered_as(other_NA: Array, name: str, width: int, ws: Workspace) -> Array:
    """Memory for (N, width), tokens or features first as in the other: to add arrays of two orders takes 30 times."""
    n_tokens = len(other_NA)
    return ws(name, n_tokens, width) if other_NA.flags.c_contiguous else ws(name, width, n_tokens).T
