"""The tables of rotary position embedding, in NumPy."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.models.rope import Rope, inverse_frequencies


class Tables(NamedTuple):
    """cos and signed sin of position times frequency, (T, heads, head_dim), with what the heads are multiplied by."""

    cos: NDArray[Any]
    sin: NDArray[Any]


def tables(rope: Rope, n_positions: int, factors: Sequence[float], length: int = 1) -> Tables:
    """The tables of positions 0 to n_positions - 1, float32, computed in float64.

    factors: one for each head. length: of the rows that they are for.
    """
    frequencies, factor = inverse_frequencies(rope, length)
    angles = np.arange(n_positions, dtype=np.float64)[:, None] * frequencies
    cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
    heads = np.array(factors, np.float32)[:, None]
    cos_Th, sin_Th = np.concatenate([cos, cos], -1), np.concatenate([-sin, sin], -1)
    return Tables(*(table.astype(np.float32)[:, None] * heads for table in (cos_Th, sin_Th)))
