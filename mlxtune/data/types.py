"""What the data package hands on: rows of tokens with their loss mask, batches of them, and what was left out.

B rows, T tokens. A token that is *supervised* is one that the model is trained to predict from the tokens before it;
the first token of a row never is.
"""

from dataclasses import dataclass
from typing import NamedTuple

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


@dataclass(frozen=True)
class Dataset:
    """Tokenized rows. notes: sentences for the opening panel (how validation was split, what was skipped)."""

    train: tuple[TokenRow, ...]
    valid: tuple[TokenRow, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]
    split: str = ""  # that the rows of `valid` are from, where they are all that is asked for
    rows_per_example: int = 1  # that lie side by side: of a pair, the chosen answer and then the rejected one


class Batch(NamedTuple):
    """Rows, padded at the end. `rows` are their places in the dataset's tuple."""

    rows: tuple[int, ...]
    tokens_BT: NDArray[np.int32]
    supervised_BT: NDArray[np.bool_]  # False on padding
    lengths_B: NDArray[np.int32]  # tokens of each row before padding

    @property
    def n_supervised(self) -> int:
        """How many tokens carry loss."""
        return int(self.supervised_BT.sum())

    @property
    def supervised_rows(self) -> NDArray[np.int32]:
        """The place in the batch of each supervised token's row, row after row, (N,)."""
        return np.repeat(np.arange(len(self.rows), dtype=np.int32), self.supervised_BT.sum(1))
