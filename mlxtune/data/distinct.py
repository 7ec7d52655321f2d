"""Rows that are read alike, which a hidden-state cache holds once."""

from collections.abc import Iterable
from typing import NamedTuple

from mlxtune.data.digest import digest
from mlxtune.data.types import TokenRow


class Distinct(NamedTuple):
    """Digests of what is read of rows, all tokens but the last, and how many tokens that is without repetitions."""

    keys: frozenset[bytes]
    tokens: int

    def plus(self, rows: Iterable[TokenRow]) -> "Distinct":
        """With more rows.

        >>> import numpy as np
        >>> one, other = (TokenRow(np.array([1, 2, last], np.int32), np.ones(3, np.bool_), "") for last in (3, 4))
        >>> NOTHING.plus([one, other]).tokens
        2
        """
        more = {digest(row.tokens[:-1]): len(row.tokens) - 1 for row in rows}
        new = {key: n_tokens for key, n_tokens in more.items() if key not in self.keys}
        return Distinct(self.keys | new.keys(), self.tokens + sum(new.values()))


NOTHING = Distinct(frozenset(), 0)
