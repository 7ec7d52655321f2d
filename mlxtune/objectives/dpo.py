"""Direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290); hinge: Zhao et al. 2023, arXiv:2305.10425.

Rows lie in pairs, the chosen answer first. With l the sum of an answer's log-probabilities, l' the same under the model
of the start, and a reward of beta (l - l'):

    margin = reward of the chosen answer - reward of the rejected one
    sigmoid: loss = log(1 + exp(-margin))
    hinge:   loss = max(0, 1 - margin)

The sums run over the answer's tokens, the mean over pairs, as in TRL.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from mlxtune.objectives.base import Array, Found, Targets, row_sums
from mlxtune.settings import section


@section
class Dpo:
    """beta: how much a change of log-probability is worth; the larger, the closer the model stays to its start."""

    name: Literal["dpo"] = "dpo"
    beta: Annotated[float, Field(gt=0, le=1e6)] = 0.1
    loss_type: Literal["sigmoid", "hinge"] = "sigmoid"

    rows_per_example = 2
    needs_reference = True
    is_pointwise = False

    def count(self, n_rows: int, n_tokens: int) -> int:  # noqa: ARG002 - see `Objective`
        """Every pair counts the same, however long its answers are."""
        return n_rows // 2

    def loss(self, xp: Any, logps_N: Array, targets: Targets) -> Found:
        """The summed loss of the pairs, and their metrics."""
        logps_B = row_sums(xp, logps_N, targets)
        rewards_B = self._rewards(logps_B, targets)
        margin_P = rewards_B[::2] - rewards_B[1::2]
        is_hinge = self.loss_type == "hinge"
        losses_P = xp.maximum(1 - margin_P, 0.0) if is_hinge else xp.logaddexp(0.0 * margin_P, -margin_P)
        return Found(
            xp.sum(losses_P),
            {
                "reward_margin": xp.sum(margin_P),
                "reward_accuracy": xp.sum(xp.where(margin_P > 0, 1.0, 0.0)),
                "chosen_logp": xp.sum(logps_B[::2]),
                "rejected_logp": xp.sum(logps_B[1::2]),
            },
        )

    def slopes(self, xp: Any, logps_N: Array, targets: Targets) -> Array:
        """Of the sigmoid, -beta / (1 + exp(margin)) for the chosen answer's tokens; the opposite for the other's."""
        rewards_B = self._rewards(row_sums(xp, logps_N, targets), targets)
        margin_P = rewards_B[::2] - rewards_B[1::2]
        if self.loss_type == "hinge":
            weight_P = xp.where(margin_P < 1, 1.0, 0.0)
        else:
            weight_P = xp.exp(-xp.logaddexp(0.0 * margin_P, margin_P))
        signs_N = xp.where(targets.rows_N % 2 == 0, -self.beta, self.beta)
        return signs_N * weight_P[targets.rows_N // 2]

    def _rewards(self, logps_B: Array, targets: Targets) -> Array:
        assert targets.reference_B is not None
        return self.beta * (logps_B - targets.reference_B)
