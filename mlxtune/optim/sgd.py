"""Stochastic gradient descent, plain or with momentum: Robbins and Monro, 1951; Polyak, 1964.

Decay is coupled, as in torch.optim.SGD: it is a part of the gradient. The learning rate is outside of the momentum, so
that a new rate counts at once, and the first step is that of plain descent: a long run of equal gradients g moves a
weight by lr g / (1 - momentum) a step.

    g = g + decay p
    b = momentum b + g
    p = p - lr b                      with Nesterov's momentum: p - lr (g + momentum b)

Nesterov's is in the form of Sutskever and others, "On the importance of initialization and momentum in deep learning",
2013, as PyTorch has it. A step is as long as its gradient, where each number of Adam's step is about the rate, whatever
the gradient: so the rate has to be far larger. On the built-in rows, where AdamW's is 0.005, of the rates 0.03, 0.1,
0.3 and 1 the best is 1, and 0.3 with a momentum of 0.9.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field
from typing_extensions import override

from mlxtune.errors import BadSetting
from mlxtune.optim.arrays import Array, Namespace
from mlxtune.optim.optimizer import Optimizer, Slots, Step
from mlxtune.settings import section


class Constants(NamedTuple):
    rate: float
    momentum: float
    decay: float  # what a weight adds to its gradient


@section
class Sgd(Optimizer):
    """The settings; weight_decay is a part of the gradient. Without momentum there is no state at all."""

    name: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and not self.momentum:
            raise BadSetting(
                "optimizer.nesterov",
                expected="a setting that does something",
                found="true with a momentum of 0",
                remedy="Give optimizer.momentum, of which 0.9 is usual, or leave optimizer.nesterov out.",
            )

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    @property
    def update_arrays(self) -> float:
        return 1

    @override
    def constants(self, step: int, learning_rate: float) -> Constants:
        """All steps of one rate are alike."""
        return Constants(learning_rate, self.momentum, self.weight_decay)

    @override
    def update(
        self, xp: Namespace, s: Constants, weight: Array, gradient: Array, slots: Slots, *, decays: bool
    ) -> Step:
        """See `Optimizer`.

        >>> import numpy as np
        >>> sgd = Sgd(momentum=0.5)
        >>> weight, slots, s = np.float32([5.0]), sgd.init(np, (1,)), sgd.scalars(np, step=1, learning_rate=0.1)
        >>> for _ in range(2):
        ...     weight, slots = sgd.update(np, s, weight, np.float32([2.0]), slots, decays=True)
        >>> round(float(weight[0]), 4)          # 0.1 * 2, then 0.1 * (2 + 0.5 * 2)
        4.5
        """
        if decays:
            gradient = gradient + s.decay * weight
        if not slots:
            return weight - s.rate * gradient, ()
        momentum = s.momentum * slots[0] + gradient
        taken = gradient + s.momentum * momentum if self.nesterov else momentum
        return weight - s.rate * taken, (momentum,)
