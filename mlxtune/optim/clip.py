"""The global norm of a set of gradients and the factor that clips it, as in PyTorch's `clip_grad_norm_`."""

from collections.abc import Iterable

from mlxtune.optim.arrays import Array, Namespace


def square_sum(xp: Namespace, gradient: Array) -> Array:
    """Sum of squares in float32, last axis first: MLX's CPU reduction of a whole large array loses digits."""
    squares = xp.square(gradient.astype(xp.float32))
    return xp.sum(xp.sum(squares, axis=-1)) if squares.ndim else squares


def global_norm(xp: Namespace, gradients: Iterable[Array]) -> Array:
    """The Euclidean norm of all entries of all gradients, a float32 scalar.

    >>> import numpy as np
    >>> float(global_norm(np, [np.float32([3.0]), np.float32([[4.0]])]))
    5.0
    """
    return xp.sqrt(sum((square_sum(xp, gradient) for gradient in gradients), start=xp.array(0.0, dtype=xp.float32)))


def clip_factor(xp: Namespace, norm: Array, clip_norm: float | None) -> Array:
    """What to multiply the gradients by: 1 where the norm is within clip_norm, or where there is none."""
    one = xp.array(1.0, dtype=xp.float32)
    return one if clip_norm is None else xp.minimum(one, clip_norm / (norm + 1e-6))
