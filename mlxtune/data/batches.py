"""Which rows make which batch, as pure functions: row numbers first, arrays of tokens when they are needed.

An epoch's rows are drawn into effective batches (all rows of one optimizer step), and these are shuffled. Where rows
are packed, effective batches have about the same number of tokens; where they are padded, they are brought together by
length. Micro-batches are cut out of an effective batch, so accumulating over k of them sees the rows that one batch
of k times the rows would. Everything is a function of the lengths, the seed and the epoch.

An epoch of a million rows is one array of a million numbers. B rows, E effective batches, S rows of the largest of them
"""

from collections.abc import Callable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.spread import NO_ROW, Places, dealt, spread
from mlxtune.data.types import Batch, TokenRow

MULTIPLE = 8  # rows are padded to a multiple of so many tokens: few shapes to compile for, little waste
Lengths = NDArray[np.integer]
Rows = NDArray[np.int32]
Cut = Callable[[Places, Lengths, int], Places]


class Batches(Sequence[tuple[int, ...]]):
    """Row numbers of each batch. rows: (batches, most rows of one), NO_ROW at the end of those with fewer."""

    def __init__(self, rows: Places | Rows) -> None:
        self.rows: Rows = rows.astype(np.int32)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> tuple[int, ...]: ...

    @overload
    def __getitem__(self, place: slice) -> "Batches": ...

    def __getitem__(self, place: int | slice) -> "tuple[int, ...] | Batches":
        rows = self.rows[place]
        return Batches(rows) if isinstance(place, slice) else tuple(rows[rows != NO_ROW].tolist())

    def summed(self, values_B: NDArray[np.integer]) -> NDArray[np.int64]:
        """The sum, over the rows of each batch, of a value of each row."""
        return np.asarray(self._of_each(values_B).sum(axis=1))

    def largest(self, values_B: NDArray[np.integer]) -> NDArray[np.int64]:
        """The largest value of the rows of each batch; values are not negative."""
        return np.asarray(self._of_each(values_B).max(axis=1, initial=0))

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows of each batch."""
        return np.asarray((self.rows != NO_ROW).sum(axis=1))

    def of_examples(self, size: int) -> "Batches":
        """Row numbers where these are numbers of examples, of `size` rows each, side by side."""
        rows = np.where(self.rows[..., None] == NO_ROW, NO_ROW, size * self.rows[..., None] + np.arange(size))
        return Batches(rows.reshape(len(self), -1))

    def _of_each(self, values_B: NDArray[np.integer]) -> NDArray[np.int64]:
        return np.where(self.rows == NO_ROW, 0, values_B[self.rows].astype(np.int64))


class Epoch(Sequence[Batches]):
    """One epoch: the micro-batches of each optimizer step. ends: how many micro-batches there are up to each step's."""

    def __init__(self, batches: Batches, ends: NDArray[np.int64]) -> None:
        self.batches, self.ends = batches, ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, place: int) -> Batches: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Batches]: ...

    def __getitem__(self, place: int | slice) -> Batches | Sequence[Batches]:
        if isinstance(place, slice):
            return [self[step] for step in range(len(self))[place]]
        step = range(len(self))[place]
        return self.batches[int(self.ends[step - 1]) if step else 0 : int(self.ends[step])]

    def of_steps(self, count: int) -> Batches:
        """The micro-batches of the first steps."""
        return self.batches[: int(self.ends[min(count, len(self)) - 1])]

    def of_examples(self, size: int) -> "Epoch":
        """Row numbers where these are numbers of examples, of `size` rows each."""
        return self if size == 1 else Epoch(self.batches.of_examples(size), self.ends)


def epoch_of(
    lengths_B: Lengths,
    *,
    batch_size: int,
    grad_accum: int,
    seed: int,
    epoch: int,
    by_length: bool,
    in_order: bool = False,
) -> Epoch:
    """One epoch: steps of up to grad_accum micro-batches of up to batch_size rows, each row exactly once.

    by_length: rows of a length class come together, for models that need padding. If the rows do not divide, one step
    is then short, of an arbitrary length class and at an arbitrary place; else steps differ by a row at most. in_order:
    each step takes the next rows, in the order of the data, and the last one may be short.

    >>> lengths = np.array([5, 90, 7, 88])
    >>> steps = {by_length: epoch_of(lengths, batch_size=2, grad_accum=1, seed=0, epoch=1, by_length=by_length)
    ...          for by_length in (False, True)}
    >>> sorted(sorted(rows) for [rows] in steps[False]), sorted(sorted(rows) for [rows] in steps[True])
    ([[0, 1], [2, 3]], [[0, 2], [1, 3]])
    """
    generator, size = np.random.default_rng([seed, epoch]), batch_size * grad_accum
    if in_order:
        n_steps = -(-len(lengths_B) // size)
        effective_ES = np.full((n_steps, size), NO_ROW)
        effective_ES.ravel()[: len(lengths_B)] = np.arange(len(lengths_B))
    elif by_length:
        effective_ES = _grouped(_by_length(lengths_B, generator), size, generator)
    else:
        effective_ES = spread(lengths_B, size, generator)
    if not in_order:
        effective_ES = effective_ES[generator.permutation(len(effective_ES))]
    return _cut(effective_ES, lengths_B, batch_size, _by_turns if by_length else _evenly)


def _by_length(lengths_B: Lengths, generator: np.random.Generator) -> Places:
    """Row numbers, shortest length class first, in random order within a class."""
    drawn = generator.permutation(len(lengths_B))
    classes = -(-np.asarray(lengths_B, np.int64)[drawn] // MULTIPLE)
    return drawn[np.argsort(classes, kind="stable")]


def _grouped(rows: Places, size: int, generator: np.random.Generator) -> Places:
    """Consecutive rows in groups of `size`, (E, S); the short group, if any, is the first, from a random place."""
    whole, rest = divmod(len(rows), size)
    if not rest:
        return np.asarray(rows.reshape(whole, size))
    short = int(generator.integers(whole + 1)) * size
    few = np.r_[rows[short : short + rest], np.full(size - rest, NO_ROW)]
    return np.asarray(np.r_[few, rows[:short], rows[short + rest :]].reshape(whole + 1, size))


def _cut(effective_ES: Places, lengths_B: Lengths, batch_size: int, cut: Cut) -> Epoch:
    """Each effective batch in micro-batches. Those with the same number of rows are cut together."""
    n_steps, n_most = len(effective_ES), -(-effective_ES.shape[1] // batch_size)
    counts = (effective_ES != NO_ROW).sum(axis=1)
    batches = np.full((n_steps, n_most, batch_size), NO_ROW, np.intp)
    for count in np.unique(counts).tolist():
        alike = np.flatnonzero(counts == count)
        rows = effective_ES[alike]
        made = cut(rows[rows != NO_ROW].reshape(len(alike), count), lengths_B, batch_size)
        batches[alike, : made.shape[1], : made.shape[2]] = made
    is_one = (batches != NO_ROW).any(axis=2)
    return Epoch(Batches(batches[is_one]), np.cumsum(is_one.sum(axis=1)))


def _longest_first(rows_EN: Places, lengths_B: Lengths) -> Places:
    order = np.argsort(-lengths_B[rows_EN].astype(np.int64), axis=1, kind="stable")
    made: Places = np.take_along_axis(rows_EN, order, axis=1)
    return made


def _by_turns(rows_EN: Places, lengths_B: Lengths, batch_size: int) -> Places:
    """Micro-batches of rows of like length; the longest row is the first of each."""
    n_sets, n_rows = rows_EN.shape
    n_batches = -(-n_rows // batch_size)
    padded_rows = np.full((n_sets, n_batches * batch_size), NO_ROW, np.intp)
    padded_rows[:, :n_rows] = _longest_first(rows_EN, lengths_B)
    made: Places = padded_rows.reshape(n_sets, n_batches, batch_size)
    return made


def _evenly(rows_EN: Places, lengths_B: Lengths, batch_size: int) -> Places:
    """Micro-batches of about the same number of tokens; the longest row is the first of each."""
    if rows_EN.shape[1] <= batch_size:
        return _by_turns(rows_EN, lengths_B, batch_size)
    return dealt(_longest_first(rows_EN, lengths_B), lengths_B, batch_size)


def collate(rows: Sequence[TokenRow], indices: Sequence[int]) -> Batch:
    """The rows of one batch. Where they have to be padded, it is to a multiple of tokens."""
    chosen = [rows[index] for index in indices]
    lengths_B = np.array([len(row.tokens) for row in chosen], np.int32)
    tokens_N = np.concatenate([row.tokens for row in chosen])
    supervised_N = np.concatenate([row.supervised for row in chosen])
    return Batch(tuple(indices), tokens_N, supervised_N, lengths_B, padded(int(lengths_B.max())))


def padded(length: int) -> int:
    """The length after padding.

    >>> padded(1), padded(8), padded(9)
    (8, 8, 16)
    """
    return -(-length // MULTIPLE) * MULTIPLE


def padding_waste(lengths_B: Lengths, batches: Batches) -> float:
    """Share of the positions of the batches that are padding; of an epoch: `epoch_of(...).batches`.

    >>> padding_waste(np.array([8, 4]), Batches(np.array([[0, 1]])))
    0.25
    """
    longest = -(-batches.largest(lengths_B) // MULTIPLE) * MULTIPLE
    used, positions = int(batches.summed(lengths_B).sum()), int((batches.counts * longest).sum())
    return 1 - used / positions if positions else 0.0


def eval_batches(lengths_B: Lengths, *, batch_size: int, by_length: bool) -> Batches:
    """Batches for evaluation: every row once, in an order that never changes."""
    if len(lengths_B) == 0:
        return Batches(np.empty((0, batch_size), np.intp))
    rows_EN = np.arange(len(lengths_B))[None]
    return Batches((_by_turns if by_length else _evenly)(rows_EN, lengths_B, batch_size)[0])
