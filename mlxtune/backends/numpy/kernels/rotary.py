"""Rotation of queries and keys by their positions: feature i is paired with feature i + h / 2 ("half split").

A rotation is undone by its transpose, so the backward pass turns the other way.
"""

import numpy as np

from mlxtune.backends.numpy.arrays import Array
from mlxtune.backends.numpy.rope import Tables


def rotate(x: Array, tables: Tables, out: Array) -> None:
    """x, out: (..., h), not the same memory. tables: broadcast to (..., h / 2)."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    np.multiply(first, tables.cos, out=out[..., :half])
    out[..., :half] -= second * tables.sin
    np.multiply(second, tables.cos, out=out[..., half:])
    out[..., half:] += first * tables.sin


def rotate_backward(gradient: Array, tables: Tables, out: Array) -> None:
    """Writes the gradient of x."""
    rotate(gradient, Tables(tables.cos, -tables.sin), out)
