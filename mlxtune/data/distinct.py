"""Rows without repetitions, which a hidden-state cache holds once, and which of them a row is."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.digest import BYTES, digest, mask_digest
from mlxtune.data.token_rows import TokenRows, sortable


class Distinct(NamedTuple):
    """Digests of the tokens of rows, sorted, and how many tokens are read of them without repetitions."""

    keys: NDArray[np.bytes_]
    tokens: int

    def plus(self, rows: TokenRows) -> "Distinct":
        """With more rows. The last token of a row is only predicted.

        >>> from mlxtune.data.token_rows import listed
        >>> from mlxtune.data.types import TokenRow
        >>> row, other = (TokenRow(np.array([1, 2, last], np.int32), np.ones(3, np.bool_), "") for last in (3, 4))
        >>> NOTHING.plus(listed([row, row])).tokens, NOTHING.plus(listed([row, row])).plus(listed([other])).tokens
        (2, 4)
        """
        keys, first = np.unique(sortable(rows.keys(), with_mask=False), return_index=True)
        is_new = ~np.isin(keys, self.keys)
        n_tokens = int((rows.lengths_B[first][is_new].astype(np.int64) - 1).sum())
        return Distinct(np.union1d(self.keys, keys), self.tokens + n_tokens)


NOTHING = Distinct(np.empty(0, f"S{BYTES}"), 0)


class Index:
    """Rows without repetitions, longest first: an order that does not depend on the one in which they are given.

    with_mask: rows of the same tokens of which others carry loss are told apart.
    """

    def __init__(self, rows: TokenRows, *, with_mask: bool = False) -> None:
        self._keys, first = np.unique(sortable(rows.keys(), with_mask=with_mask), return_index=True)
        order = np.argsort(-rows.lengths_B[first], kind="stable")
        self.rows = rows.take(first[order])
        self._numbers = np.empty(len(order), np.int32)
        self._numbers[order] = np.arange(len(order), dtype=np.int32)

    def number(self, tokens: NDArray[np.int32], supervised: NDArray[np.bool_] | None = None) -> int:
        """The place, among the rows, of the one with these tokens, and mask. Raises KeyError."""
        key = digest(tokens) + (mask_digest(supervised) if supervised is not None else b"")
        place = int(np.searchsorted(self._keys, np.array(key, self._keys.dtype)))
        if place == len(self._keys) or self._keys[place] != key.rstrip(b"\0"):
            raise KeyError
        return int(self._numbers[place])

    def hash(self) -> str:
        """A name for the rows in their order, in hex."""
        return hashlib.sha256(self._keys.tobytes()).hexdigest()
