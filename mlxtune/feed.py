"""The rows of a run, and how they are cut into the micro-batches of each step and of the validation.

A *window* is the micro-batches of one optimizer step.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import NamedTuple

from mlxtune.data.batches import collate, eval_plan, plan
from mlxtune.data.types import Batch, TokenRow
from mlxtune.validating import spaced


class Window(NamedTuple):
    """Row numbers of each micro-batch of one optimizer step. epoch and number are counted from 0."""

    epoch: int
    number: int
    batches: Sequence[tuple[int, ...]]


class Feed(NamedTuple):
    """The rows of a run and how they are cut into windows. by_length: see `data.batches`.

    An example is `rows_per_example` rows side by side, which are never parted; batch_size counts examples.
    """

    train: Sequence[TokenRow]
    valid: Sequence[TokenRow]
    batch_size: int
    grad_accum: int
    seed: int
    by_length: bool = False
    eval_cost: float = 1.0  # a validated token's time in that of a trained one
    rows_per_example: int = 1
    needs_reference: bool = False  # what the model of the start makes of each row: all are evaluated once

    def windows(self, epoch: int) -> list[list[tuple[int, ...]]]:
        """Row numbers of each micro-batch of each window: every row once, the order of (seed, epoch) alone."""
        steps = plan(
            self.lengths(self.train),
            batch_size=self.batch_size,
            grad_accum=self.grad_accum,
            seed=self.seed,
            epoch=epoch,
            by_length=self.by_length,
        )
        return [[self._rows(examples) for examples in step] for step in steps]

    def lengths(self, rows: Sequence[TokenRow]) -> list[int]:
        """Tokens of each example."""
        lengths, size = [len(row.tokens) for row in rows], self.rows_per_example
        return lengths if size == 1 else [sum(lengths[i : i + size]) for i in range(0, len(lengths), size)]

    def _rows(self, examples: Sequence[int]) -> tuple[int, ...]:
        size = self.rows_per_example
        return tuple(size * example + place for example in examples for place in range(size))

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
        chosen = self._rows(spaced(range(self.n_valid), n_examples))
        return self._replace(valid=[self.valid[row] for row in chosen])

    @property
    def evaluated(self) -> Sequence[TokenRow]:
        """The rows whose loss tells what was learned: those that validate, or of the first step where none do."""
        return self.valid or self.train

    def eval_batches(self) -> list[tuple[int, ...]]:
        """Row numbers, in `evaluated`, of each batch that is evaluated."""
        if not self.valid:
            return self.windows(0)[0]
        batches = eval_plan(self.lengths(self.valid), batch_size=self.batch_size, by_length=self.by_length)
        return [self._rows(examples) for examples in batches]

    def windows_from(self, epoch: int, number: int) -> Iterator[Window]:
        """All windows from this one of this epoch on, epoch after epoch, without end."""
        for each in count(epoch):
            for place, batches in enumerate(self.windows(each)):
                if each > epoch or place >= number:
                    yield Window(each, place, batches)

    def batches(self, window: Sequence[tuple[int, ...]]) -> list[Batch]:
        """The micro-batches of one window."""
        return [collate(self.train, rows) for rows in window]

    def largest(self, steps: int) -> Batch:
        """The micro-batch with the most tokens, of the first steps of the first epoch."""
        return self._most_tokens(self.train, (batch for window in self.windows(0)[:steps] for batch in window))

    def largest_evaluated(self) -> Batch:
        """The batch with the most tokens of those that are evaluated."""
        return self._most_tokens(self.evaluated, self.eval_batches())

    def _most_tokens(self, rows: Sequence[TokenRow], batches: Iterable[tuple[int, ...]]) -> Batch:
        most = max(batches, key=lambda batch: sum(len(rows[index].tokens) for index in batch))
        return collate(rows, most)
