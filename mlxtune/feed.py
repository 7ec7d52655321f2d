"""The rows of a run, and how they are cut into the micro-batches of each step and of the validation.

A *window* is the micro-batches of one optimizer step.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.batches import Batches, Epoch, collate, epoch_of
from mlxtune.data.batches import eval_batches as batches_of
from mlxtune.data.token_rows import TokenRows
from mlxtune.data.types import Batch
from mlxtune.validating import spaced


class Window(NamedTuple):
    """Row numbers of each micro-batch of one optimizer step. epoch and number are counted from 0."""

    epoch: int
    number: int
    batches: Batches


class Feed(NamedTuple):
    """The rows of a run and how they are cut into windows. by_length, in_order: see `data.batches`.

    An example is `rows_per_example` rows side by side, which are never parted; batch_size counts examples.
    """

    train: TokenRows
    valid: TokenRows
    batch_size: int
    grad_accum: int
    seed: int
    by_length: bool = False
    in_order: bool = False
    eval_cost: float = 1.0  # a validated token's time in that of a trained one
    rows_per_example: int = 1
    needs_reference: bool = False  # what the model of the start makes of each row: all are evaluated once

    def windows(self, epoch: int) -> Epoch:
        """Row numbers of each micro-batch of each window: every row once, the order of (seed, epoch) alone."""
        return _windows(self._replace(valid=self.train), epoch)  # the same whichever rows validate

    def lengths(self, rows: TokenRows) -> NDArray[np.int64]:
        """Tokens of each example."""
        return _lengths(rows, self.rows_per_example)

    @property
    def n_train(self) -> int:
        """Examples that train."""
        return len(self.train) // self.rows_per_example

    @property
    def n_valid(self) -> int:
        """Examples that validate."""
        return len(self.valid) // self.rows_per_example

    def validating(self, n_examples: int) -> "Feed":
        """With so many of the validation examples, evenly spaced."""
        size = self.rows_per_example
        first_rows = size * np.asarray(spaced(range(self.n_valid), n_examples), np.intp)
        return self._replace(valid=self.valid.take((first_rows[:, None] + np.arange(size)).ravel()))

    @property
    def evaluated(self) -> TokenRows:
        """The rows whose loss tells what was learned: those that validate, or of the first step where none do."""
        return self.valid or self.train

    def eval_batches(self) -> Batches:
        """Row numbers, in `evaluated`, of each batch that is evaluated."""
        if not self.valid:
            return self.windows(0)[0]
        batches = batches_of(self.lengths(self.valid), batch_size=self.batch_size, by_length=self.by_length)
        return batches.of_examples(self.rows_per_example)

    def windows_from(self, epoch: int, number: int) -> Iterator[Window]:
        """All windows from this one of this epoch on, epoch after epoch, without end."""
        for each in count(epoch):
            for place, batches in enumerate(self.windows(each)):
                if each > epoch or place >= number:
                    yield Window(each, place, batches)

    def batches(self, window: Batches) -> list[Batch]:
        """The micro-batches of one window."""
        return [collate(self.train, rows) for rows in window]

    def largest(self, steps: int) -> Batch:
        """The micro-batch with the most tokens, of the first steps of the first epoch."""
        return _most_tokens(self.train, self.windows(0).of_steps(steps))

    def largest_evaluated(self) -> Batch:
        """The batch with the most tokens of those that are evaluated."""
        return _most_tokens(self.evaluated, self.eval_batches())


def _most_tokens(rows: TokenRows, batches: Batches) -> Batch:
    return collate(rows, batches[int(batches.summed(rows.lengths_B).argmax())])


def _lengths(rows: TokenRows, rows_per_example: int) -> NDArray[np.int64]:
    return np.asarray(rows.lengths_B.astype(np.int64).reshape(-1, rows_per_example).sum(axis=1))


@lru_cache(maxsize=2)  # this epoch's and the next one's, or the first one's, which planning looks at again and again
def _windows(feed: Feed, epoch: int) -> Epoch:
    made = epoch_of(
        feed.lengths(feed.train),
        batch_size=feed.batch_size,
        grad_accum=feed.grad_accum,
        seed=feed.seed,
        epoch=epoch,
        by_length=feed.by_length,
        in_order=feed.in_order,
    )
    return made.of_examples(feed.rows_per_example)
