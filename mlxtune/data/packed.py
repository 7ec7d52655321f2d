"""The rows of a batch end to end, without padding.

N tokens that are read, of all rows; S of them from which a supervised token is predicted
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.types import Batch


class Packed(NamedTuple):
    """The last token of a row is only predicted, so a row of n tokens is read as n - 1."""

    tokens_N: NDArray[np.int32]
    chosen_S: NDArray[np.intp]  # places among N
    targets_S: NDArray[np.int32]  # the tokens that follow them
    lengths: tuple[int, ...]  # that are read of each row


def pack(batch: Batch) -> Packed:
    """
    >>> tokens, loss = np.array([5, 6, 7, 8, 9, 3, 4], np.int32), np.array([0, 0, 1, 0, 1, 0, 1], bool)
    >>> packed = pack(Batch((0, 1), tokens, loss, np.array([3, 4]), 4))
    >>> packed.tokens_N.tolist(), packed.chosen_S.tolist(), packed.targets_S.tolist(), packed.lengths
    ([5, 6, 8, 9, 3], [1, 2, 4], [7, 9, 4], (2, 3))
    """
    is_read = np.ones(len(batch.tokens_N), np.bool_)
    is_read[np.cumsum(batch.lengths_B) - 1] = False
    read = np.flatnonzero(is_read)
    chosen_S = np.flatnonzero(batch.supervised_N[read + 1])
    return Packed(
        batch.tokens_N[read], chosen_S, batch.tokens_N[read + 1][chosen_S], tuple((batch.lengths_B - 1).tolist())
    )
