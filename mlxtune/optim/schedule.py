"""The learning rate of each step, counted from 1 to `total`.

Warmup: step t of W has peak * t / W. After it, with x = (t - 1 - W) / (total - W), which goes from 0 towards 1:

    constant  peak
    linear    low + (peak - low) * (1 - x)
    cosine    low + (peak - low) * (1 + cos(pi x)) / 2       Loshchilov and Hutter, arXiv:1608.03983, one period

No step has the rate zero: the first is peak / W, and `low` would be reached at step total + 1.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from mlxtune.errors import BadSetting
from mlxtune.format import counted
from mlxtune.settings import section

Rate = Annotated[float, Field(ge=1e-30, le=1e38)]  # what float32 can hold, a step of AdamW included
Steps = Annotated[int, Field(ge=0, le=10**9)]


@section
class Constant:
    name: Literal["constant"] = "constant"
    learning_rate: Rate = 1e-5
    warmup_steps: Steps = 0


@section
class Linear:
    name: Literal["linear"] = "linear"
    learning_rate: Rate = 1e-5
    warmup_steps: Steps = 0
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0

    def __post_init__(self) -> None:
        _check_falls(self.learning_rate, self.min_learning_rate)


@section
class Cosine:
    name: Literal["cosine"] = "cosine"
    learning_rate: Rate = 1e-5
    warmup_steps: Steps = 0
    min_learning_rate: Annotated[float, Field(ge=0)] = 0.0

    def __post_init__(self) -> None:
        _check_falls(self.learning_rate, self.min_learning_rate)


Schedule = Constant | Linear | Cosine


def _check_falls(peak: float, low: float) -> None:
    """Refuse a schedule that would rise."""
    if low > peak:
        raise BadSetting(
            "schedule.min_learning_rate",
            expected=f"at most schedule.learning_rate, {peak:g}",
            found=f"{low:g}",
            remedy="The rate falls from schedule.learning_rate to schedule.min_learning_rate. To rise, give a warmup.",
        )


def check_length(schedule: Schedule, total: int) -> None:
    """Refuse a warmup that the run would not come to the end of. total: the run's steps."""
    if schedule.warmup_steps >= total:
        raise BadSetting(
            "schedule.warmup_steps",
            expected=f"fewer than the run's {counted(total, 'step')}",
            found=f"{schedule.warmup_steps:,}",
            remedy="The peak rate would never be reached. Warm up for a tenth of the run or less, or train for longer.",
        )


def learning_rate(schedule: Schedule, step: int, total: int) -> float:
    """The rate of `step`, from 1.

    >>> [round(learning_rate(Linear(learning_rate=1.0, warmup_steps=2), t, 6), 2) for t in range(1, 7)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    peak, warmup = schedule.learning_rate, schedule.warmup_steps
    if step <= warmup:
        return peak * step / warmup
    if isinstance(schedule, Constant):
        return peak
    x = (step - 1 - warmup) / (total - warmup)
    share = 1 - x if isinstance(schedule, Linear) else (1 + math.cos(math.pi * x)) / 2
    return schedule.min_learning_rate + (peak - schedule.min_learning_rate) * share
