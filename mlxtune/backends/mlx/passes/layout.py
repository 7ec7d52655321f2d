"""How the rows of a batch lie in the arrays of a pass: end to end in one sequence, or one below the other with padding.

B rows, T tokens, S tokens of all rows, N tokens that carry loss
"""

from typing import NamedTuple

import mlx.core as mx
import numpy as np

from mlxtune.backends.mlx.passes.packing import PackedCache
from mlxtune.data.packed import pack
from mlxtune.data.types import Batch


class Layout(NamedTuple):
    """The last token of a row is only predicted, so a row of n tokens is read as n - 1."""

    tokens: mx.array  # (1, S) or (B, T)
    chosen_N: mx.array  # places, among all that are read, from which a supervised token is predicted
    targets_N: mx.array  # those tokens
    lengths: tuple[int, ...]  # tokens that are read of each row
    packed: bool

    def caches(self, n_layers: int) -> list[PackedCache] | None:
        """What keeps packed rows apart."""
        return [PackedCache(self.lengths)] * n_layers if self.packed else None

    def place(self, row: int) -> tuple[int, int]:
        """Where a row's tokens begin and end, among all places."""
        begin = sum(self.lengths[:row]) if self.packed else row * self.tokens.shape[1]
        return begin, begin + self.lengths[row]


def lay_out(batch: Batch, *, packed: bool) -> Layout:
    """The arrays of a batch."""
    if packed:
        tokens_S, chosen_N, targets_N, lengths = pack(batch)
        tokens = tokens_S[None]
    else:
        tokens_BT, lengths = batch.tokens_BT, tuple((batch.lengths_B - 1).tolist())
        tokens, chosen_N = tokens_BT[:, :-1], np.flatnonzero(batch.supervised_BT[:, 1:])
        targets_N = tokens_BT[:, 1:].reshape(-1)[chosen_N]
    return Layout(mx.array(tokens), mx.array(chosen_N.astype(np.int32)), mx.array(targets_N), lengths, packed)
