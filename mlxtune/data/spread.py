"""Rows in groups that have about the same number of tokens.

Where rows are packed, no row is padded to another's length, and nothing is gained by bringing rows of a length
together. Spread out, a step takes the memory and the time of an average step, not of the one with all the longest rows:
of 1,000 rows of 20 to 2,048 tokens, 410 at the median, the largest of the batches of 4 has 2,600 tokens, not 8,192.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NO_ROW = -1
DRAWN_WITHIN = 0.3  # of its length, what a row is taken for: rows of like length then meet others in each epoch


def spread(lengths: Sequence[int], size: int, generator: np.random.Generator | None = None) -> list[list[int]]:
    """Row numbers in as few groups as have up to `size` rows, each row once; groups differ by a row at most.

    From the longest rows on, one goes to each group, the longest of them to that with the fewest tokens. generator: to
    mix rows of like length; without it the groups depend on the lengths alone.

    >>> spread([5, 90, 7, 88], size=2)
    [[1, 0], [3, 2]]
    """
    lengths_B, n_groups = np.asarray(lengths, np.int64), -(-len(lengths) // size)
    drawn = np.arange(len(lengths)) if generator is None else generator.permutation(len(lengths))
    taken_for = lengths_B[drawn] * (1.0 if generator is None else _factors(len(drawn), generator))
    order = drawn[np.argsort(-taken_for, kind="stable")]
    groups, tokens = np.full((n_groups, size), NO_ROW), np.zeros(n_groups, np.int64)
    for turn, begin in enumerate(range(0, len(order), n_groups)):
        rows = _longest_first(order[begin : begin + n_groups], lengths_B)
        fewest = np.argsort(tokens, kind="stable")[: len(rows)]
        groups[fewest, turn] = rows
        tokens[fewest] += lengths_B[rows]
    return [[row for row in group if row != NO_ROW] for group in groups.tolist()]


def _factors(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    return generator.uniform(1 - DRAWN_WITHIN, 1 + DRAWN_WITHIN, count)


def _longest_first(rows: NDArray[np.intp], lengths_B: NDArray[np.int64]) -> NDArray[np.intp]:
    return rows[np.argsort(-lengths_B[rows], kind="stable")]
