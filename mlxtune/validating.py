"""When a run validates, and on which rows: so that it takes at most a fifth of the run's time, of a short run too.

The one rule, where --eval-every does not say otherwise. Time is counted in tokens: a clock would give a resumed run
other validations than the unbroken one. A validated token takes a forward pass of all layers, a trained one as much
again or more in the layers that train: a backward pass has twice the work, but in small batches not twice the time.
Before the first step and after the last there is always a validation. Where the two of all rows would take more
than the share, fewer rows validate, evenly spaced; else there are up to MOST after the one before training.
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlxtune.strategies.selection import Selection

SHARE = 0.2  # of the run's time
MOST = 10
Row = TypeVar("Row")


def cost(selection: Selection, n_layers: int) -> float:
    """A validated token's time in that of a trained one, without what is kept of frozen layers: at most that.

    >>> last = Selection("", (), (), 24, untie_head=False, notes=())
    >>> cost(last, 32), cost(last._replace(first_layer=0), 32)
    (0.8, 0.5)
    """
    return n_layers / (2 * n_layers - selection.first_layer)


class Budget(NamedTuple):
    """tokens: that may be validated in the whole run, each time counted."""

    tokens: float

    @classmethod
    def of(cls, trained_tokens: float, cost: float) -> "Budget":
        """The share of the time as validated tokens."""
        return cls(SHARE / (1 - SHARE) * trained_tokens / cost)

    def rows(self, lengths: Sequence[int] | NDArray[np.int64]) -> int:
        """How many of the rows validate: as many as fit twice, one at least.

        >>> Budget(100.0).rows([10] * 4), Budget(60.0).rows([10] * 4), Budget(1.0).rows([10] * 4)
        (4, 3, 1)
        """
        lengths_B, least, most = np.asarray(lengths, np.int64), 1, len(lengths)
        while least < most:  # by halves: more rows nearly always have more tokens
            middle = (least + most + 1) // 2
            least, most = (middle, most) if self._affords(lengths_B, middle) else (least, middle - 1)
        return least

    def _affords(self, lengths_B: NDArray[np.int64], count: int) -> bool:
        return 2 * int(lengths_B[spaced(range(len(lengths_B)), count)].sum()) <= self.tokens

    def interval(self, validated_tokens: int, steps: int) -> int:
        """Steps between validations.

        >>> [Budget(100.0).interval(tokens, 150) for tokens in (1, 20, 100)]
        [15, 38, 150]
        """
        times = min(MOST, int(self.tokens / max(1, validated_tokens)) - 1)
        return ceil(steps / max(1, times))


def spaced(rows: Sequence[Row], count: int) -> list[Row]:
    """So many of the rows, evenly spaced; all where they are no more.

    >>> spaced("abcdef", 3), spaced("ab", 5)
    (['b', 'd', 'f'], ['a', 'b'])
    """
    count = min(count, len(rows))
    return [rows[(2 * place + 1) * len(rows) // (2 * count)] for place in range(count)]
