"""Batches out of arrays that are padded, and some rows of a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.types import Batch


def unpadded(tokens_BT: NDArray[Any], supervised_BT: NDArray[Any], lengths: Sequence[int]) -> Batch:
    """The rows without what is after their ends; they remember the width that they had."""
    lengths_B = np.array(lengths, np.int32)
    inside_BT = np.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    tokens_N = tokens_BT[inside_BT].astype(np.int32)
    return Batch(tuple(range(len(lengths_B))), tokens_N, supervised_BT[inside_BT], lengths_B, tokens_BT.shape[1])


def some(batch: Batch, places: Sequence[int]) -> Batch:
    """These rows of a batch."""
    tokens_N = np.concatenate([batch.tokens[place] for place in places])
    supervised_N = np.concatenate([batch.supervised[place] for place in places])
    lengths_B = batch.lengths_B[list(places)]
    return Batch(tuple(batch.rows[place] for place in places), tokens_N, supervised_N, lengths_B, batch.width)


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of all."""
    rows, tokens, supervised, lengths, widths = zip(*batches, strict=True)
    arrays = (np.concatenate(each) for each in (tokens, supervised, lengths))
    return Batch(tuple(row for of_batch in rows for row in of_batch), *arrays, max(widths))
