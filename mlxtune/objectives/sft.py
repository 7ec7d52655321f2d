"""Supervised fine-tuning: the cross-entropy of the supervised tokens.

loss = - sum over n of logp_n,  counted by token
"""

from typing import Any, Literal

from mlxtune.objectives.base import Array, Found, Targets
from mlxtune.settings import section


@section
class Sft:
    """Nothing to set."""

    name: Literal["sft"] = "sft"

    rows_per_example = 1
    needs_reference = False
    is_pointwise = True

    def count(self, n_rows: int, n_tokens: int) -> int:  # noqa: ARG002 - see `Objective`
        """Every supervised token counts the same."""
        return n_tokens

    def loss(self, xp: Any, logps_N: Array, targets: Targets) -> Found:  # noqa: ARG002
        """The summed negative log-likelihood."""
        return Found(-xp.sum(logps_N))

    def slopes(self, xp: Any, logps_N: Array, targets: Targets) -> Array:  # noqa: ARG002
        """-1 for every token."""
        return -xp.ones_like(logps_N)
