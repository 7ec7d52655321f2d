"""What Adam and AdamW share: running means of gradients and of their squares, and the change that they make.

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    change = lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

Kingma and Ba, arXiv:1412.6980, algorithm 1, with bias correction always, and epsilon where PyTorch has it.
"""

from typing import Annotated, NamedTuple

from pydantic import Field

from mlxtune.optim.arrays import Array, Namespace
from mlxtune.optim.optimizer import Optimizer, Slots
from mlxtune.settings import section

Beta = Annotated[float, Field(ge=0, lt=1)]


class Constants(NamedTuple):
    beta1: float
    beta1_rest: float  # 1 - beta1
    beta2: float
    beta2_rest: float
    epsilon: float
    rate: float  # lr / (1 - beta1^t)
    v_correction: float  # 1 / sqrt(1 - beta2^t)
    decay: float  # of a weight, as the optimizer's own file says


@section
class Moments(Optimizer):
    """Their settings."""

    beta1: Beta = 0.9
    beta2: Beta = 0.999
    epsilon: Annotated[float, Field(gt=1e-30)] = 1e-8  # less is 0 in float32

    @property
    def slots(self) -> tuple[str, ...]:
        return ("m", "v")

    @property
    def silent(self) -> tuple[str, ...]:
        """An infinite v makes the change 0, for ever. An m that is not finite spoils its weight in the same step."""
        return ("v",)

    def of_step(self, step: int, learning_rate: float, decay: float) -> Constants:
        """The constants of a step, counted from 1."""
        b1, b2 = self.beta1, self.beta2
        rate, v_correction = learning_rate / (1 - b1**step), (1 - b2**step) ** -0.5
        return Constants(b1, 1 - b1, b2, 1 - b2, self.epsilon, rate, v_correction, decay)


def change(xp: Namespace, s: Constants, gradient: Array, slots: Slots) -> tuple[Array, Slots]:
    """What is taken off the weight, and the next m and v."""
    m, v = slots
    m = s.beta1 * m + s.beta1_rest * gradient
    v = s.beta2 * v + s.beta2_rest * (gradient * gradient)
    return s.rate * m / (xp.sqrt(v) * s.v_correction + s.epsilon), (m, v)
