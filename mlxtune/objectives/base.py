"""What an objective is given of a batch and what it gives back.

N supervised tokens, B rows
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

Array = Any  # of the array namespace: numpy's or mlx's


class Targets(NamedTuple):
    """The supervised tokens of a batch. reference_B: the summed log-probability of each row under the start's model."""

    rows_N: Array  # the row of the batch that each token is in
    n_rows: int
    reference_B: Array | None = None


class Found(NamedTuple):
    """loss_sum: over all that are counted; metrics: sums over the same, by name."""

    loss_sum: Array
    metrics: Mapping[str, Array] = {}

    def arrays(self) -> tuple[Array, ...]:
        """All of them."""
        return (self.loss_sum, *self.metrics.values())

    def plus(self, other: "Found") -> "Found":
        """The sums over both."""
        metrics = {name: value + other.metrics[name] for name, value in self.metrics.items()}
        return Found(self.loss_sum + other.loss_sum, metrics)


class Objective(Protocol):
    """A frozen section of settings that knows its formula. What is counted are tokens or examples, see `count`."""

    @property
    def rows_per_example(self) -> int:
        """Rows that stay together, side by side in a batch."""
        ...

    @property
    def needs_reference(self) -> bool:
        """Whether it is given what the model of the start makes of each row."""
        ...

    @property
    def is_pointwise(self) -> bool:
        """Whether the slope of a token depends on nothing but that token."""
        ...

    def count(self, n_rows: int, n_tokens: int) -> int:
        """What the summed loss of a batch is divided by."""
        ...

    def loss(self, xp: Any, logps_N: Array, targets: Targets) -> Found:
        """The summed loss of log-probabilities, nats."""
        ...

    def slopes(self, xp: Any, logps_N: Array, targets: Targets) -> Array:
        """The derivative of the summed loss by each log-probability, (N,)."""
        ...


def row_sums(xp: Any, values_N: Array, targets: Targets) -> Array:
    """Of each row, the sum over its tokens, (B,).

    >>> import numpy as np
    >>> row_sums(np, np.array([1.0, 2.0, 4.0]), Targets(np.array([0, 1, 1]), 2)).tolist()
    [1.0, 6.0]
    """
    is_in_BN = xp.arange(targets.n_rows)[:, None] == targets.rows_N[None]
    return xp.sum(xp.where(is_in_BN, values_N[None], 0.0), axis=1)
