"""What the model of the start makes of each row: the log-probability of its supervised tokens, summed.

An objective that compares with the start needs nothing else of it, so that no second model is ever in memory. The sums
are made once, before the first step, and kept in a file where there is a place for one: a run that goes on finds them.

N supervised tokens, B rows
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.batches import collate
from mlxtune.data.distinct import Index
from mlxtune.data.token_rows import TokenRows
from mlxtune.data.types import Batch
from mlxtune.events import Event, Preparing
from mlxtune.storage.files import write_file

Sums = NDArray[np.float32]
RowLogProbabilities = Callable[[Batch], Sums]  # of the rows of a batch, (B,)
DIGEST_BYTES = 32


class References:
    """The sums, by row. A row is its tokens and which of them carry loss, so that no numbers are mixed up."""

    def __init__(self, rows: TokenRows) -> None:
        self.index = Index(rows, with_mask=True)
        self.rows = self.index.rows
        self.sums: Sums = np.zeros(len(self.rows), np.float32)

    def of(self, batch: Batch) -> Sums:
        """Of each row of a batch, (B,)."""
        rows = zip(batch.tokens, batch.supervised, strict=True)
        return self.sums[[self.index.number(tokens, loss) for tokens, loss in rows]]

    def find_or_make(
        self, file: Path | None, batch_tokens: int, compute: RowLogProbabilities, tell: Callable[[Event], None]
    ) -> None:
        """Read the sums, or compute them in batches of at most so many tokens and write them where that is possible."""
        found = None if file is None else _read(file, len(self.rows))
        if found is not None:
            self.sums = found
            return
        for begin, end in self._ranges(batch_tokens):
            batch = collate(self.rows, range(begin, end))
            self.sums[begin:end] = compute(batch)
            tell(Preparing("log-probabilities under the start's model, once", end, len(self.rows)))
        if file is not None:
            with suppress(OSError):  # they are in memory, which is what the run needs
                _write(file, self.sums)

    def _ranges(self, batch_tokens: int) -> Iterator[tuple[int, int]]:
        """Rows of like length together; as padded they are at most so many tokens, a longer row is alone."""
        begin = 0
        while begin < len(self.rows):
            end = begin + max(1, batch_tokens // int(self.rows.lengths_B[begin]))
            yield begin, min(end, len(self.rows))
            begin = end


def row_sums(batch: Batch, logps_N: NDArray[Any]) -> Sums:
    """The log-probabilities of a batch's supervised tokens, summed by row."""
    sums_B = np.bincount(batch.supervised_rows, logps_N.astype(np.float64), minlength=len(batch.rows))
    return sums_B.astype(np.float32)


def _read(file: Path, n_rows: int) -> Sums | None:
    """What was written, or None where it is not whole or not there."""
    with suppress(OSError):
        found = file.read_bytes()
        sums = found[DIGEST_BYTES:]
        if len(sums) == 4 * n_rows and hashlib.sha256(sums).digest() == found[:DIGEST_BYTES]:
            return np.frombuffer(sums, "<f4").astype(np.float32)
    return None


def _write(file: Path, sums: Sums) -> None:
    content = sums.astype("<f4").tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, hashlib.sha256(content).digest() + content)
