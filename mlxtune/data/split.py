"""Validation rows where the data has none of its own: a random share, the same for the same seed and count."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.token_rows import TokenRows

T = TypeVar("T")

_STREAM = 0x5711  # apart from the streams of the epochs' orders, which are keyed by (seed, epoch)


def batched(rows: Sequence[T], size: int) -> list[Sequence[T]]:
    """The rows in groups of `size`, in their order.

    >>> batched("abcd", 2)
    ['ab', 'cd']
    """
    return [rows[begin : begin + size] for begin in range(0, len(rows), size)]


def parted(rows: TokenRows, size: int, *, share: float, seed: int) -> tuple[TokenRows, TokenRows]:
    """Rows to train on and rows held out, both in their order. size: rows of an example, which stay together."""
    is_held = held(len(rows) // size, share=share, seed=seed).repeat(size)
    return rows.take(np.flatnonzero(~is_held)), rows.take(np.flatnonzero(is_held))


def held(count: int, *, share: float, seed: int) -> NDArray[np.bool_]:
    """Which of so many examples are held out: the share, rounded, but at least one, and at least one that is not.

    A share of 0 holds out none, and neither does a single example.

    >>> int(held(100, share=0.05, seed=0).sum()), int(held(1, share=0.5, seed=0).sum())
    (5, 0)
    """
    is_held = np.zeros(count, np.bool_)
    if share > 0 and count > 1:
        n_held = min(max(round(share * count), 1), count - 1)
        is_held[np.random.default_rng([seed, 0, _STREAM]).permutation(count)[:n_held]] = True
    return is_held
