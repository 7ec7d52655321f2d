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
    >>> rows = np.array([[5, 6, 7, 0], [8, 9, 3, 4]], np.int32), np.array([[0, 0, 1, 0], [0, 1, 0, 1]], bool)
    >>> packed = pack(Batch((0, 1), *rows, np.array([3, 4])))
    >>> packed.tokens_N.tolist(), packed.chosen_S.tolist(), packed.targets_S.tolist(), packed.lengths
    ([5, 6, 8, 9, 3], [1, 2, 4], [7, 9, 4], (2, 3))
    """
    read_BT, next_BT, loss_BT = batch.tokens_BT[:, :-1], batch.tokens_BT[:, 1:], batch.supervised_BT[:, 1:]
    lengths_B = batch.lengths_B - 1
    inside_BT = np.arange(read_BT.shape[1]) < lengths_B[:, None]
    chosen_S = np.flatnonzero(loss_BT[inside_BT])
    return Packed(read_BT[inside_BT], chosen_S, next_BT[inside_BT][chosen_S], tuple(lengths_B.tolist()))
