"""Rotation of queries and keys by their positions: feature i is paired with feature i + h / 2 ("half split").

B rows, T tokens, A heads, h head size

    out = x * cos + swapped(x) * sin        swapped: the halves of each head; sin is negative in the first half

A rotation is undone by its transpose, so the backward pass turns the other way. Tables for all heads make the loops as
long as a token's heads together, where loops over half a head would cost more than the arithmetic in them.
"""

import numpy as np

from mlxtune.backends.numpy.arrays import Array, Workspace
from mlxtune.backends.numpy.rope import Tables


def rotate(x_BTAh: Array, tables: Tables, out_BTAh: Array, ws: Workspace) -> None:
    """Writes the rotated heads."""
    crossed_BTAh = _crossed(x_BTAh, tables, ws)
    np.multiply(x_BTAh, tables.cos, out=out_BTAh)
    out_BTAh += crossed_BTAh


def rotate_backward(gradient_BTAh: Array, tables: Tables, ws: Workspace) -> None:
    """Turns the gradient of the rotated heads into that of the heads, in place."""
    crossed_BTAh = _crossed(gradient_BTAh, tables, ws)
    gradient_BTAh *= tables.cos
    gradient_BTAh -= crossed_BTAh


def _crossed(x_BTAh: Array, tables: Tables, ws: Workspace) -> Array:
    halves = (*x_BTAh.shape[:3], 2, x_BTAh.shape[3] // 2)
    crossed = ws("crossed", *halves)
    np.multiply(x_BTAh.reshape(halves)[:, :, :, ::-1], tables.sin.reshape(halves[1:]), out=crossed)
    return crossed.reshape(x_BTAh.shape)
