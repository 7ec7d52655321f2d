"""Rows as a sequence, with what is known of each without reading it: all that the engine, the plan of memory and the
hidden-state cache ask of a data set. The tokens may be in memory, or in files."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.digest import BYTES, MASK_BYTES, digest, mask_digest
from mlxtune.data.types import TokenRow

Numbers = NDArray[np.int32]
KEYS = np.dtype([("tokens", f"V{BYTES}"), ("mask", f"V{MASK_BYTES}")])  # what rows are told apart by
WHOLE = -1  # in place of where a part begins: the row is not cut


class Held(Protocol):
    """Where the tokens are."""

    def row(self, number: int, begin: int, end: int) -> TokenRow:
        """The tokens begin..end - 1 of a row, of which the first carries no loss."""
        ...

    def keys(self, numbers: Numbers) -> NDArray[np.void]:
        """Of whole rows, in the type KEYS."""
        ...


class TokenRows(Sequence[TokenRow]):
    """B rows. lengths_B: their tokens; supervised_B: how many of these carry loss.

    numbers_B: where they are held. begins_B: the first token of each part of a row, WHOLE for one that is not cut.
    """

    def __init__(
        self, held: Held, numbers_B: Numbers, lengths_B: Numbers, supervised_B: Numbers, begins_B: Numbers | None = None
    ) -> None:
        self.held, self.numbers_B, self.begins_B = held, numbers_B, begins_B
        self.lengths_B, self.supervised_B = lengths_B, supervised_B

    def __len__(self) -> int:
        return len(self.numbers_B)

    @overload
    def __getitem__(self, place: int) -> TokenRow: ...

    @overload
    def __getitem__(self, place: slice) -> "TokenRows": ...

    def __getitem__(self, place: int | slice) -> "TokenRow | TokenRows":
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        begin = 0 if self.begins_B is None else max(0, int(self.begins_B[place]))
        return self.held.row(int(self.numbers_B[place]), begin, begin + int(self.lengths_B[place]))

    def __iter__(self) -> Iterator[TokenRow]:
        return (self[place] for place in range(len(self)))

    def take(self, places: Sequence[int] | NDArray[np.integer]) -> "TokenRows":
        """Some of the rows, in this order."""
        chosen = np.asarray(places, np.intp)
        begins = None if self.begins_B is None else self.begins_B[chosen]
        return TokenRows(self.held, self.numbers_B[chosen], self.lengths_B[chosen], self.supervised_B[chosen], begins)

    def then(self, others: "TokenRows") -> "TokenRows":
        """These and others, which are held in the same place."""
        assert self.held is others.held, "rows of two places have no numbers in common"
        columns = zip(self._columns(), others._columns(), strict=True)
        numbers, lengths, supervised, begins = (np.concatenate(pair) for pair in columns)
        is_cut = self.begins_B is not None or others.begins_B is not None
        return TokenRows(self.held, numbers, lengths, supervised, begins if is_cut else None)

    def _columns(self) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        begins = np.full(len(self), WHOLE, np.int32) if self.begins_B is None else self.begins_B
        return self.numbers_B, self.lengths_B, self.supervised_B, begins

    def keys(self) -> NDArray[np.void]:
        """What each row is told apart by, (B,) of the type KEYS: a digest of its tokens, and one of its mask."""
        found = self.held.keys(self.numbers_B)
        if self.begins_B is not None:
            for place in np.flatnonzero(self.begins_B != WHOLE).tolist():
                found[place] = key_of(self[place])
        return found


def sortable(keys: NDArray[np.void], *, with_mask: bool = True) -> NDArray[np.bytes_]:
    """Keys as bytes that NumPy sorts. All have one width: that it drops zeros at their ends makes no two alike."""
    if with_mask:
        return np.ascontiguousarray(keys).view(f"S{KEYS.itemsize}")
    return np.ascontiguousarray(keys["tokens"]).view(f"S{BYTES}")


def key_of(row: TokenRow) -> tuple[bytes, bytes]:
    """An element of the type KEYS."""
    return digest(row.tokens), mask_digest(row.supervised)


class Listed:
    """Rows in memory."""

    def __init__(self, rows: Iterable[TokenRow]) -> None:
        self.rows = list(rows)

    def row(self, number: int, begin: int, end: int) -> TokenRow:
        """As Held says."""
        row = self.rows[number]
        if begin == 0 and end == len(row.tokens):
            return row
        supervised = row.supervised[begin:end].copy()
        supervised[:1] = False
        return TokenRow(row.tokens[begin:end], supervised, row.source)

    def keys(self, numbers: Numbers) -> NDArray[np.void]:
        """As Held says."""
        return np.array([key_of(self.rows[number]) for number in numbers.tolist()], KEYS)


def listed(rows: Iterable[TokenRow]) -> TokenRows:
    """Rows that are in memory.

    >>> rows = listed([TokenRow(np.array([5, 6, 7], np.int32), np.array([False, True, True]), "a:1")])
    >>> len(rows), rows.lengths_B.tolist(), rows.supervised_B.tolist(), rows[0].source
    (1, [3], [2], 'a:1')
    """
    held = Listed(rows)
    lengths = np.array([len(row.tokens) for row in held.rows], np.int32)
    supervised = np.array([int(row.supervised[1:].sum()) for row in held.rows], np.int32)
    return TokenRows(held, np.arange(len(held.rows), dtype=np.int32), lengths, supervised)
