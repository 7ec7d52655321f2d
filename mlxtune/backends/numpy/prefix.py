"""The output of the frozen layers before the first that trains, computed once for each row and kept over the epochs.

It cannot change while those layers are frozen, and it depends on the row's tokens alone: so it is kept by them, and
training and validation rows are never mixed up. It is computed row by row, not batch by batch: a row is then the same
to the last bit whatever batch it comes in, and a resumed run finds the numbers of the run it resumes. Where batches
have a row for every thread, each thread computes rows of its own, whose products are too small to gain by two. Where
nothing is kept a batch is computed at once, in 0.92 of the time.

N tokens that are read, of all rows; T of one; D hidden size
"""

from itertools import accumulate, pairwise
from typing import NamedTuple

from mlxtune.backends.numpy import threads
from mlxtune.backends.numpy.arrays import Array, Workspace
from mlxtune.backends.numpy.layer import Pass
from mlxtune.backends.numpy.model import Model, Tokens
from mlxtune.data.packed import Packed


class Row(NamedTuple):
    tokens_T: Tokens
    hidden_TD: Array  # to be written


class Prefix:
    """Hidden states before layer `first`.

    limit_bytes: beyond it, a row's are computed each time. n_threads: see `device.row_threads`.
    """

    def __init__(self, model: Model, first: int, limit_bytes: int, n_threads: int | None = 1) -> None:
        self.model, self.first, self.limit_bytes, self.n_threads = model, first, limit_bytes, n_threads
        self.kept: dict[bytes, Array] = {}
        self.bytes = 0
        self.workspaces = [model.ws, *(model.ws.another() for _ in range((n_threads or 1) - 1))]  # one for each thread

    @property
    def working_bytes(self) -> int:
        """Of the threads besides the first, which works where the model does."""
        return sum(ws.bytes for ws in self.workspaces[1:])

    def hidden(self, rows: Packed) -> Array:
        """(N, D)"""
        if self.first == 0:
            return self.model.embed(rows.tokens_N, self.model.ws)
        if self.n_threads is None:
            embedded = self.model.embed(rows.tokens_N, self.model.ws)
            return self.model.run(embedded, self.model.passing(rows.lengths), 0, self.first)
        out_ND = self.model.ws("prefix", rows.tokens_N.size, self.model.decoder.hidden_size)
        ends = pairwise([0, *accumulate(rows.lengths)])
        each = [Row(rows.tokens_N[begin:end], out_ND[begin:end]) for begin, end in ends]
        self._compute([row for row in each if not self._found(row)])
        return out_ND

    def _found(self, row: Row) -> bool:
        kept_TD = self.kept.get(row.tokens_T.tobytes())
        if kept_TD is not None:
            row.hidden_TD[...] = kept_TD
        return kept_TD is not None

    def _compute(self, rows: list[Row]) -> None:
        passes = [self.model.passing([row.tokens_T.size]) for row in rows]  # here: they share tables
        work = list(zip(rows, passes, strict=True))
        if self.n_threads == 1:
            self._compute_share((work, self.model.ws))
        else:
            shares = [(work[n :: self.n_threads], ws) for n, ws in enumerate(self.workspaces[: len(work)])]
            threads.each_alone(self._compute_share, shares)
        for row in rows:
            self._keep(row)

    def _compute_share(self, share: tuple[list[tuple[Row, Pass]], Workspace]) -> None:
        work, ws = share
        for row, p in work:
            embedded = self.model.embed(row.tokens_T, ws)
            row.hidden_TD[...] = self.model.run(embedded, p._replace(ws=ws), 0, self.first)

    def _keep(self, row: Row) -> None:
        key = row.tokens_T.tobytes()
        if key not in self.kept and self.bytes + row.hidden_TD.nbytes <= self.limit_bytes:
            self.kept[key] = row.hidden_TD.copy()
            self.bytes += row.hidden_TD.nbytes
