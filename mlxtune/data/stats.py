"""Figures of a data set's rows: how long they are, how much of them carries loss, how many are there more than once."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.token_rows import TokenRows, sortable

SHARES = (50, 90, 99)  # per cent of the rows that are no longer
FEW = 4  # tokens that carry loss: an answer of fewer is hardly one


class Spread(NamedTuple):
    """Of a number of each row. at: by per cent of the rows that have no more."""

    least: int
    mean: float
    at: dict[str, int]
    most: int


class Stats(NamedTuple):
    """Of all rows, of training and validation. repeated: rows with the tokens and the mask of one before. few: rows in
    which less than a handful of tokens carries loss."""

    rows: int
    tokens: int
    supervised_share: float
    lengths: Spread
    supervised: Spread
    repeated: int
    few: int
    few_limit: int


def stats(train: TokenRows, valid: TokenRows) -> Stats:
    """Raises nothing: a data set has rows.

    >>> from mlxtune.data.token_rows import listed
    >>> from mlxtune.data.types import TokenRow
    >>> row = TokenRow(np.arange(9, dtype=np.int32), np.arange(9) > 3, "a:1")
    >>> found = stats(listed([row, row]), listed([]))
    >>> found.tokens, found.supervised_share, found.lengths.at, found.repeated, found.few
    (18, 0.5555555555555556, {'50': 9, '90': 9, '99': 9}, 1, 0)
    """
    keys = sortable(np.concatenate([train.keys(), valid.keys()]))
    lengths = np.concatenate([train.lengths_B, valid.lengths_B])
    supervised = np.concatenate([train.supervised_B, valid.supervised_B])
    n_tokens = int(lengths.sum(dtype=np.int64))
    return Stats(
        rows=len(lengths),
        tokens=n_tokens,
        supervised_share=int(supervised.sum(dtype=np.int64)) / n_tokens,
        lengths=_spread(lengths),
        supervised=_spread(supervised),
        repeated=len(keys) - len(np.unique(keys)),
        few=int((supervised < FEW).sum()),
        few_limit=FEW,
    )


def _spread(values: NDArray[np.int32]) -> Spread:
    at = np.percentile(values, SHARES, method="inverted_cdf").astype(int).tolist()
    named = {f"{share}": value for share, value in zip(SHARES, at, strict=True)}
    return Spread(int(values.min()), float(values.mean()), named, int(values.max()))
