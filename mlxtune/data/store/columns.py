"""How rows of tokens lie in a store: one record for each row, and the tokens, masks and line ends of all, end to end.

A row begins at a multiple of 8 tokens, so that its mask, a bit for each token, begins at a byte. Its record says where.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.digest import digest, mask_digest
from mlxtune.data.rows import MadeRow
from mlxtune.data.token_rows import KEYS

ALIGNED = 8  # tokens
RECORD = np.dtype(
    [
        ("begin", "<u4"),  # of its tokens, in units of ALIGNED
        ("length", "<u4"),  # tokens
        ("needs", "<u4"),  # tokens up to the last that carries loss
        ("supervised", "<u4"),  # how many carry loss
        ("most", "<u4"),  # the largest token
        ("file", "<u4"),  # by its place in the list of files
        ("line", "<u4"),
        ("row", "<u4"),  # see faults.Place
        ("n_lines", "<i4"),  # lines of a document; -1 for a row that is none
        ("key", KEYS),
    ]
)
Records = NDArray[np.void]


class Packed(NamedTuple):
    """Rows as they are appended to a store: records that count from 0, and bytes."""

    records: Records
    tokens: bytes
    masks: bytes
    lines: bytes
    files: Sequence[str]  # that the records count


def token_type(largest: int) -> np.dtype[Any]:
    """The smallest type that holds every token up to `largest`.

    >>> token_type(31_999).name, token_type(128_255).name
    ('uint16', 'uint32')
    """
    return np.dtype("<u2" if largest < 1 << 16 else "<u4")


def packed(rows: Sequence[MadeRow], dtype: np.dtype[Any]) -> Packed:
    """Rows as a store has them."""
    places = np.cumsum([0, *(_aligned(len(row.tokens)) for row in rows)])
    tokens = np.zeros(int(places[-1]), dtype)
    masks = np.zeros(len(tokens), np.bool_)
    files: dict[str, int] = {}
    records = np.zeros(len(rows), RECORD)
    for number, (row, place) in enumerate(zip(rows, places.tolist(), strict=False)):
        tokens[place : place + len(row.tokens)] = row.tokens
        masks[place : place + len(row.tokens)] = row.supervised
        file = files.setdefault(row.place.file.name, len(files))
        records[number] = _record(row, place // ALIGNED, file)
    lines = b"".join(row.lines.tobytes() for row in rows if row.lines is not None)
    return Packed(records, tokens.tobytes(), np.packbits(masks).tobytes(), lines, tuple(files))


def _record(row: MadeRow, begin: int, file: int) -> tuple[Any, ...]:
    carry = np.flatnonzero(row.supervised)
    key = digest(row.tokens), mask_digest(row.supervised)
    n_lines = -1 if row.lines is None else len(row.lines)
    sizes = len(row.tokens), int(carry[-1]) + 1, len(carry), int(row.tokens.max())
    return (begin, *sizes, file, row.place.line, row.place.row, n_lines, key)


def _aligned(n_tokens: int) -> int:
    return -(-n_tokens // ALIGNED) * ALIGNED


def moved(packed: Packed, begin: int, files: Mapping[str, int]) -> Records:
    """The records as they are behind others. begin: tokens before them; files: the places of all files."""
    records = packed.records.copy()
    records["begin"] += begin // ALIGNED
    if len(records):
        records["file"] = np.array([files[name] for name in packed.files], "<u4")[records["file"]]
    return records
