"""Rows in groups that have about the same number of tokens.

Where rows are packed, no row is padded to another's length, and nothing is gained by bringing rows of a length
together. Spread out, a step takes the memory and the time of an average step, not of the one with all the longest rows:
of 1,000 rows of 20 to 2,048 tokens, 410 at the median, the largest of the batches of 4 has 2,600 tokens, not 8,192.
"""

import numpy as np
from numpy.typing import NDArray

NO_ROW = -1
DRAWN_WITHIN = 0.3  # of its length, what a row is taken for: rows of like length then meet others in each epoch
Places = NDArray[np.intp]


def spread(lengths_B: NDArray[np.integer], size: int, generator: np.random.Generator | None = None) -> Places:
    """Row numbers in as few groups as have up to `size` rows, each row once; groups differ by a row at most.

    (G, size); NO_ROW where a group has fewer. From the longest rows on, one goes to each group, the longest of them to
    that with the fewest tokens. generator: to mix rows of like length; without it the groups depend on the lengths
    alone.

    >>> spread(np.array([5, 90, 7, 88]), size=2).tolist()
    [[1, 0], [3, 2]]
    """
    drawn = np.arange(len(lengths_B)) if generator is None else generator.permutation(len(lengths_B))
    taken_for = lengths_B[drawn] * (1.0 if generator is None else _factors(len(drawn), generator))
    order = drawn[np.argsort(-taken_for, kind="stable")]
    groups: Places = dealt(order[None], lengths_B, size)[0]
    return groups


def dealt(order_EN: Places, lengths_B: NDArray[np.integer], size: int) -> Places:
    """Rows in the order in which they are dealt to groups, for each of E sets of N rows by itself: (E, G, size)."""
    n_sets, n_rows = order_EN.shape
    n_groups = -(-n_rows // size)
    groups = np.full((n_sets, n_groups, size), NO_ROW, np.intp)
    tokens, each = np.zeros((n_sets, n_groups), np.int64), np.arange(n_sets)[:, None]
    for turn, begin in enumerate(range(0, n_rows, n_groups)):
        rows = order_EN[:, begin : begin + n_groups]
        rows = np.take_along_axis(rows, np.argsort(-lengths_B[rows].astype(np.int64), axis=1, kind="stable"), axis=1)
        fewest = np.argsort(tokens, axis=1, kind="stable")[:, : rows.shape[1]]
        groups[each, fewest, turn] = rows
        tokens[each, fewest] += lengths_B[rows]
    return groups


def _factors(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    return generator.uniform(1 - DRAWN_WITHIN, 1 + DRAWN_WITHIN, count)
