"""What the data package hands on: rows of tokens with their loss mask, batches of them, and what was left out.

B rows, T tokens of one, N tokens of all rows. A token that is *supervised* is one that the model is trained to predict
from the tokens before it; the first token of a row never is.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class TokenRow(NamedTuple):
    """One row as the trainer sees it."""

    tokens: NDArray[np.int32]  # (T,)
    supervised: NDArray[np.bool_]  # (T,); supervised[0] is False
    source: str  # "train.jsonl:7", for messages


class Refused(NamedTuple):
    """A row that will not train, and why: "longer than 2,048 tokens"."""

    source: str
    reason: str


class Batch(NamedTuple):
    """Rows end to end, N tokens of all of them. `rows` are their places in the dataset's tuple.

    width: tokens that each row has in the arrays of shape (B, T), for those who need rows of one length.
    """

    rows: tuple[int, ...]
    tokens_N: NDArray[np.int32]
    supervised_N: NDArray[np.bool_]
    lengths_B: NDArray[np.int32]  # tokens of each row
    width: int

    @property
    def n_supervised(self) -> int:
        """How many tokens carry loss."""
        return int(self.supervised_N.sum())

    @property
    def supervised_rows(self) -> NDArray[np.int32]:
        """The place in the batch of each supervised token's row, row after row, (N,) of the supervised tokens."""
        places_N = np.repeat(np.arange(len(self.rows), dtype=np.int32), self.lengths_B)
        return places_N[self.supervised_N]

    @property
    def tokens(self) -> list[NDArray[np.int32]]:
        """Of each row."""
        return np.split(self.tokens_N, np.cumsum(self.lengths_B)[:-1])

    @property
    def supervised(self) -> list[NDArray[np.bool_]]:
        """Of each row."""
        return np.split(self.supervised_N, np.cumsum(self.lengths_B)[:-1])

    @property
    def tokens_BT(self) -> NDArray[np.int32]:  # noqa: N802 - shapes live in names
        """A copy that is padded at the end with token 0."""
        return self._padded(self.tokens_N)

    @property
    def supervised_BT(self) -> NDArray[np.bool_]:  # noqa: N802
        """A copy that is padded at the end, without loss."""
        return self._padded(self.supervised_N)

    def _padded(self, values_N: NDArray[Any]) -> NDArray[Any]:
        inside_BT = np.arange(self.width) < self.lengths_B[:, None]
        padded_BT = np.zeros(inside_BT.shape, values_N.dtype)
        padded_BT[inside_BT] = values_N
        return padded_BT
