"""Validation rows where the data has none of its own: a random share, the same for the same seed and count."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_STREAM = 0x5711  # apart from the streams of the epochs' orders, which are keyed by (seed, epoch)


def batched(rows: Sequence[T], size: int) -> list[Sequence[T]]:
    """The rows in groups of `size`, in their order.

    >>> batched("abcd", 2)
    ['ab', 'cd']
    """
    return [rows[begin : begin + size] for begin in range(0, len(rows), size)]


def part(rows: Sequence[T], *, share: float, seed: int) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """The rows to train on and the rows held out, both in their order: the share, rounded, but at least one of each.

    A share of 0 holds out none, and neither does a single row.

    >>> train, valid = part(range(100), share=0.05, seed=0)
    >>> len(train), len(valid), sorted(train + valid) == list(range(100))
    (95, 5, True)
    """
    if share == 0 or len(rows) < 2:
        return tuple(rows), ()
    count = min(max(round(share * len(rows)), 1), len(rows) - 1)
    held = set(np.random.default_rng([seed, 0, _STREAM]).permutation(len(rows))[:count].tolist())
    train = tuple(row for place, row in enumerate(rows) if place not in held)
    return train, tuple(row for place, row in enumerate(rows) if place in held)
