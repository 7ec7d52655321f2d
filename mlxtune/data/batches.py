"""Which rows make which batch, as pure functions: a plan of row numbers first, arrays of tokens when they are needed.

An epoch's rows are drawn into effective batches (all rows of one optimizer step), and these are shuffled. Where rows
are packed, effective batches have about the same number of tokens; where they are padded, they are brought together by
length. Micro-batches are cut out of an effective batch, so accumulating over k of them sees the rows that one batch
of k times the rows would. Everything is a function of the lengths, the seed and the epoch.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from mlxtune.data.spread import spread
from mlxtune.data.types import Batch, TokenRow

Plan = list[list[tuple[int, ...]]]  # optimizer steps, of micro-batches, of row numbers

MULTIPLE = 8  # rows are padded to a multiple of so many tokens: few shapes to compile for, little waste


def plan(lengths: Sequence[int], *, batch_size: int, grad_accum: int, seed: int, epoch: int, by_length: bool) -> Plan:
    """One epoch: steps of up to grad_accum micro-batches of up to batch_size rows, each row exactly once.

    by_length: rows of a length class come together, for models that need padding. If the rows do not divide, one step
    is then short, of an arbitrary length class and at an arbitrary place; else steps differ by a row at most.

    >>> steps = {by_length: plan([5, 90, 7, 88], batch_size=2, grad_accum=1, seed=0, epoch=1, by_length=by_length)
    ...          for by_length in (False, True)}
    >>> sorted(sorted(rows) for [rows] in steps[False]), sorted(sorted(rows) for [rows] in steps[True])
    ([[0, 1], [2, 3]], [[0, 2], [1, 3]])
    """
    generator, size = np.random.default_rng([seed, epoch]), batch_size * grad_accum
    if by_length:
        effective: Sequence[Sequence[int]] = _cut(_by_length(lengths, generator), size, generator)
    else:
        effective = spread(lengths, size, generator)
    order, cut = generator.permutation(len(effective)), _by_turns if by_length else _evenly
    return [cut(effective[place], lengths, batch_size) for place in order]


def _by_length(lengths: Sequence[int], generator: np.random.Generator) -> list[int]:
    """Row numbers, shortest length class first, in random order within a class."""
    drawn = generator.permutation(len(lengths))
    classes = -(-np.asarray(lengths, np.int64)[drawn] // MULTIPLE)
    return [int(row) for row in drawn[np.argsort(classes, kind="stable")]]


def _cut(rows: Sequence[int], size: int, generator: np.random.Generator) -> list[Sequence[int]]:
    """Consecutive rows in groups of `size`, with the short group, if any, at a random place."""
    whole, rest = divmod(len(rows), size)
    if not rest:
        return [rows[start : start + size] for start in range(0, len(rows), size)]
    short = int(generator.integers(whole + 1)) * size
    starts = chain(range(0, short, size), range(short + rest, len(rows), size))
    return [rows[short : short + rest], *(rows[start : start + size] for start in starts)]


def _by_turns(rows: Sequence[int], lengths: Sequence[int], batch_size: int) -> list[tuple[int, ...]]:
    """Micro-batches of rows of like length; the longest row is the first of each."""
    longest_first = sorted(rows, key=lambda row: -lengths[row])
    return [tuple(longest_first[start : start + batch_size]) for start in range(0, len(rows), batch_size)]


def _evenly(rows: Sequence[int], lengths: Sequence[int], batch_size: int) -> list[tuple[int, ...]]:
    """Micro-batches of about the same number of tokens; the longest row is the first of each."""
    if len(rows) <= batch_size:
        return _by_turns(rows, lengths, batch_size)
    groups = spread([lengths[row] for row in rows], batch_size)
    return [tuple(rows[place] for place in group) for group in groups]


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


def padding_waste(lengths: Sequence[int], batches: Iterable[Sequence[int]]) -> float:
    """Share of the positions of the batches that are padding; of an epoch: `chain.from_iterable(plan(...))`.

    >>> padding_waste([8, 4], [(0, 1)])
    0.25
    """
    used = positions = 0
    for rows in batches:
        used += sum(lengths[row] for row in rows)
        positions += len(rows) * padded(max(lengths[row] for row in rows))
    return 1 - used / positions if positions else 0.0


def eval_plan(lengths: Sequence[int], *, batch_size: int, by_length: bool) -> list[tuple[int, ...]]:
    """Batches for evaluation: every row once, in an order that never changes."""
    return (_by_turns if by_length else _evenly)(range(len(lengths)), lengths, batch_size)
