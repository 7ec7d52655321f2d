"""Adam, Kingma and Ba, arXiv:1412.6980, algorithm 1; without decay it is AdamW without decay.

Decay is coupled, as in torch.optim.Adam: it is a part of the gradient (L2 regularisation), so m and v see it, and a
weight whose gradients are large decays less. `moments` has the change:

    g = g + decay p
    p = p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
"""

from typing import Literal

from mlxtune.optim.arrays import Array, Namespace
from mlxtune.optim.moments import Constants, Moments, change
from mlxtune.optim.optimizer import Slots, Step
from mlxtune.settings import section


@section
class Adam(Moments):
    """The settings; weight_decay is a part of the gradient."""

    name: Literal["adam"] = "adam"

    def constants(self, step: int, learning_rate: float) -> Constants:
        """decay: what a weight adds to its gradient."""
        return self.of_step(step, learning_rate, decay=self.weight_decay)

    def update(
        self, xp: Namespace, s: Constants, weight: Array, gradient: Array, slots: Slots, *, decays: bool
    ) -> Step:
        """See `Optimizer`.

        >>> import numpy as np
        >>> adam = Adam(weight_decay=1.0)
        >>> s, zeros = adam.scalars(np, step=1, learning_rate=0.1), adam.init(np, (1,))
        >>> weight, _ = adam.update(np, s, np.float32([5.0]), np.float32([-2.0]), zeros, decays=True)
        >>> round(float(weight[0]), 4)          # the sign of -2 + 5, where AdamW would go up by 0.1 and decay by 0.5
        4.9
        """
        taken, slots = change(xp, s, gradient + s.decay * weight if decays else gradient, slots)
        return weight - taken, slots
