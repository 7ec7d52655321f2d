"""The rows of a case and the order of its batches: functions of the case alone, so that every process has the same.

The order is mlx-lm's own. Its chat and completion rows are dictionaries, whose length it takes for the row's: its sort
by length leaves them in the order of the file, and the batches with the padding that this gives.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlxtune.bench.sides.spec import SEED, Case
from mlxtune.data.batches import collate
from mlxtune.data.types import Batch, TokenRow

MEDIAN_TOKENS, SPREAD = 85, 0.65  # of a lognormal distribution, natural logarithm
SHORTEST, LONGEST = 20, 300
PROMPT_SHARE = 0.6


class Row(NamedTuple):
    tokens: list[int]
    offset: int  # tokens before those that carry loss; at least the first, which nothing predicts


def make_rows(case: Case) -> list[Row]:
    """Ragged rows, or rows of `row_tokens`. Half the tokens follow from the one before: there is something to learn."""
    random = np.random.default_rng(7)
    lengths = random.lognormal(np.log(MEDIAN_TOKENS), SPREAD, case.rows).clip(SHORTEST, LONGEST).astype(int)
    if case.row_tokens:
        lengths[:] = case.row_tokens
    follows = random.integers(1, case.vocabulary, case.vocabulary)
    return [Row(_tokens(follows, int(length), random), _offset(case, int(length))) for length in lengths]


def _tokens(follows: np.ndarray, length: int, random: np.random.Generator) -> list[int]:
    """Token 0 is left to the padding."""
    drawn = 1 + ((len(follows) - 1) * random.random(length) ** 3).astype(int)  # few tokens are frequent
    known = random.random(length) < 0.5
    tokens = [int(drawn[0])]
    for place in range(1, length):
        tokens.append(int(follows[tokens[-1]] if known[place] else drawn[place]))
    return tokens


def _offset(case: Case, length: int) -> int:
    return 1 if case.row_tokens else max(1, round(length * PROMPT_SHARE))


def token_row(row: Row) -> TokenRow:
    """The row as mlxtune has it, with the same tokens to predict as in mlx-lm.

    mlx-lm's mask takes one place too many: after its last token each row is trained to predict token 0, the padding.
    """
    tokens = np.array([*row.tokens, 0], np.int32)
    return TokenRow(tokens, np.arange(len(tokens)) >= row.offset, "bench")


def epochs(case: Case) -> Iterator[list[tuple[int, ...]]]:
    """Batches of row numbers, epoch after epoch, in the order of `mlx_lm.tuner.trainer.iterate_batches`."""
    starts = range(0, case.rows - case.batch_size + 1, case.batch_size)
    batches = [tuple(range(start, start + case.batch_size)) for start in starts]
    random = np.random.RandomState(SEED)  # the generator that np.random.seed sets
    for _ in range(case.epochs):
        yield [batches[place] for place in random.permutation(len(batches))]


def largest(rows: Sequence[TokenRow], case: Case) -> Batch:
    """The batch with the most tokens."""
    batches = (collate(rows, indices) for indices in next(epochs(case)))
    return max(batches, key=lambda batch: int(batch.lengths_B.sum()))
