"""AdamW: Adam with decoupled weight decay, Loshchilov and Hutter, arXiv:1711.05101, algorithm 2.

Decay is multiplied by the learning rate and taken off the weight beside the change, as in torch.optim.AdamW; neither m
nor v sees it. `moments` has the change:

    p = p - lr decay p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
"""

from typing import Annotated, Literal

from pydantic import Field

from mlxtune.optim.arrays import Array, Namespace
from mlxtune.optim.moments import Constants, Moments, change
from mlxtune.optim.optimizer import Slots, Step
from mlxtune.settings import section


@section
class AdamW(Moments):
    """The settings; weight_decay is multiplied by the learning rate."""

    name: Literal["adamw"] = "adamw"
    weight_decay: Annotated[float, Field(ge=0)] = 0.01

    def constants(self, step: int, learning_rate: float) -> Constants:
        """decay: what is left of a weight."""
        return self.of_step(step, learning_rate, decay=1 - learning_rate * self.weight_decay)

    def update(
        self, xp: Namespace, s: Constants, weight: Array, gradient: Array, slots: Slots, *, decays: bool
    ) -> Step:
        """See `Optimizer`.

        >>> import numpy as np
        >>> adamw = AdamW(weight_decay=0.0)
        >>> s, zeros = adamw.scalars(np, step=1, learning_rate=0.1), adamw.init(np, (1,))
        >>> weight, _ = adamw.update(np, s, np.float32([5.0]), np.float32([2.0]), zeros, decays=True)
        >>> round(float(weight[0]), 4)          # the first step is the sign of the gradient times the rate
        4.9
        """
        taken, slots = change(xp, s, gradient, slots)
        return (s.decay * weight if decays else weight) - taken, slots
