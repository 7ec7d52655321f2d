"""The frozen layers before the first that trains, run once over all rows; training goes on from what they gave.

The pass is layer by layer over all rows, not row by row over all layers: a few layers are in memory at a time, and none
of them after it. What they give depends on the rows' tokens alone, so every epoch, and every later run of the same
layers over the same rows, finds it in a file.

S tokens of all rows, D hidden size
"""

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.mlx.model.lazy_weights import Unread
from mlxtune.backends.mlx.passes.forward import Forward
from mlxtune.backends.mlx.passes.layout import Layout
from mlxtune.backends.row_file import LAYERS_AT_ONCE, Damaged, RowFile, Tokens
from mlxtune.data.batches import collate
from mlxtune.data.types import Batch
from mlxtune.events import Event, Preparing

MOST_RENEWALS = 2
NOTE_EVERY = 64  # batches: how much of a pass that is killed is done again
FILE_TYPES: dict[mx.Dtype, np.dtype[Any]] = {
    mx.float32: np.dtype(np.float32),
    mx.float16: np.dtype(np.float16),
    mx.bfloat16: np.dtype(np.uint16),
}


class Kept(NamedTuple):
    """What is kept, where, and who hears of it."""

    file: RowFile
    batch_tokens: int  # that the pass reads at once
    weights: Unread
    tell: Callable[[Event], None]
    say: Callable[[str], None]


class Prefix:
    """What gives the hidden states that enter the first trained layer, from a file where there is one."""

    def __init__(self, forward: Forward, dtype: mx.Dtype) -> None:
        self.forward, self.dtype = forward, dtype
        self.file: RowFile | None = None
        self.renewals = 0

    def keep_in(self, kept: Kept) -> None:
        """Make the file, or go on where it was left, or find it whole. Raises OSError where it cannot be written."""
        self.kept, self.file = kept, kept.file
        try:
            self._make(kept.file, kept.tell)
        except OSError:
            self.file = None
            raise

    def hidden(self, batch: Batch, layout: Layout) -> mx.array | None:
        """Of all places of the layout, (1, S, D) or (B, T, D); None where the model is not split."""
        if self.file is None or not self.forward.first:
            return self.forward.prefix(layout)
        try:
            return self._from_file(self.file, self.forward.first, batch.tokens, layout)
        except Damaged:
            self._renew(self.file)
            return self.hidden(batch, layout)

    def read_ahead(self, batch: Batch) -> None:
        """What `hidden` of the batch will read, if it reads a file."""
        file = self.file
        if file is None or not self.forward.first:
            return
        for tokens in batch.tokens:
            file.read_ahead(self.forward.first, tokens)

    def _renew(self, file: RowFile) -> None:
        """Make a damaged file anew; where it cannot be, or is damaged again, each step computes what it needs."""
        self.renewals += 1
        try:
            if self.renewals > MOST_RENEWALS:
                raise OSError(errno.EIO, "damaged again and again")
            self.kept.say(f"The frozen layers' output was damaged in {file.folder}. It is computed again.")
            self._make(file, self.kept.tell, is_damaged=True)
        except OSError as fault:
            self.file = None
            self.kept.weights.read()
            self.kept.say(f"The frozen layers' output is not kept any more ({fault.strerror}): each step computes it.")

    def _from_file(self, file: RowFile, stage: int, rows: Sequence[Tokens], layout: Layout) -> mx.array:
        """Places that are padding are zeros."""
        hidden = (np.empty if layout.packed else np.zeros)((*layout.tokens.shape, file.width), file.dtype)
        flat_SD = hidden.reshape(-1, file.width)
        for row, tokens in enumerate(rows):
            first, last = layout.place(row)
            file.read_into(stage, tokens, flat_SD[first:last])
        return mx.array(hidden).view(self.dtype)

    def _make(self, file: RowFile, tell: Callable[[Event], None], *, is_damaged: bool = False) -> None:
        last = self.forward.first
        if not is_damaged and file.is_whole(last):
            return
        with file.writing(lambda: tell(Preparing("waiting for another run that computes the same frozen layers"))):
            if not file.is_renewed(last):
                try:
                    self._fill(file, *file.begun(), tell)
                except Damaged:  # what was begun
                    self._fill(file, *file.begin(), tell)
                file.finish(last)

    def _fill(self, file: RowFile, stage: int, rows_done: int, tell: Callable[[Event], None]) -> None:
        """Bring all rows through the layers. rows_done: that are through the next stage already."""
        n_rows, weights, last = len(file.lengths), self.kept.weights, self.forward.first
        while stage < last:
            following = min(stage + LAYERS_AT_ONCE, last)
            weights.read([*self._names(weights, stage, following)])
            for number, (begin, end) in enumerate(_batches(file.lengths, rows_done, self.kept.batch_tokens), start=1):
                self._run(file, begin, end, stage, following)
                tell(Preparing("frozen layers, once", stage * n_rows + end * (following - stage), last * n_rows))
                if number % NOTE_EVERY == 0:
                    file.note(stage, end)
            weights.forget()
            file.note(following, 0)
            stage, rows_done = following, 0

    def _names(self, weights: Unread, begin: int, end: int) -> Iterator[str]:
        """Prefixes of the parameters that these layers need; the embedding comes before the first."""
        layers = [name for name in weights.prefixes if name.endswith(".")]
        yield from layers[begin:end]
        if begin == 0:
            yield from (name for name in weights.prefixes if not name.endswith("."))

    def _run(self, file: RowFile, begin: int, end: int, stage: int, following: int) -> None:
        """Rows `begin` to `end - 1` through layers `stage` to `following - 1`."""
        batch = collate(file.index.rows, range(begin, end))
        layout = self.forward.lay_out(batch)
        hidden = self._from_file(file, stage, batch.tokens, layout) if stage else None
        out = self.forward.between(layout, hidden, following, stage).astype(self.dtype)
        flat_SD = np.array(out.view(mx.uint16) if self.dtype == mx.bfloat16 else out).reshape(-1, file.width)
        for row in range(begin, end):
            first, last = layout.place(row - begin)
            file.write(following, row, flat_SD[first:last])


def _batches(lengths: NDArray[np.int32], begin: int, n_tokens: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, from row `begin` on, of at most n_tokens tokens; a longer row is alone."""
    while begin < len(lengths):
        total = np.cumsum(lengths[begin : begin + n_tokens])
        end = begin + max(1, int(np.searchsorted(total, n_tokens, side="right")))
        yield begin, end
        begin = end
