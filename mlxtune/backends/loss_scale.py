"""The loss scale of float16 training, which keeps small gradients from becoming zero.

Micikevicius and others, arXiv:1710.03740, section 3.2: the loss is multiplied by a scale before the backward pass and
the gradients are divided by it after. Where they overflow, the step is left out and the scale halved; after
GROWTH_STEPS good steps it is doubled.
"""

from typing import NamedTuple

START, SMALLEST, LARGEST = 2.0**16, 2.0**-14, 2.0**24
GROWTH_STEPS = 2000


class LossScale(NamedTuple):
    value: float  # a power of two, so that dividing by it is exact
    good_steps: int  # since it last changed

    def after(self, finite: bool) -> "LossScale":
        """The scale for the next step.

        >>> LossScale(1024.0, 5).after(finite=False)
        LossScale(value=512.0, good_steps=0)
        """
        if not finite:
            return LossScale(self.value / 2, 0)
        if self.good_steps + 1 == GROWTH_STEPS:
            return LossScale(min(self.value * 2, LARGEST), 0)
        return LossScale(self.value, self.good_steps + 1)

    @property
    def exhausted(self) -> bool:
        """Whether no scale helps: the gradients themselves are not finite."""
        return self.value < SMALLEST


ONE = LossScale(1.0, 0)
