"""How long a run is, in what portions, and how often it validates."""

import math
from typing import Annotated, NamedTuple

from pydantic import Field

from mlxtune.errors import BadSetting
from mlxtune.feed import Feed
from mlxtune.format import counted
from mlxtune.settings import section
from mlxtune.validating import Budget

Count = Annotated[int, Field(ge=1, le=10**9)]


@section
class TrainSettings:
    """How long and in what portions. One of max_steps and epochs; neither is one epoch. clip_norm None: no clipping."""

    max_steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count = 4
    grad_accum: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    shuffle: bool = True  # else rows come in the order of the data, in every epoch
    clip_norm: Annotated[float, Field(gt=1e-30)] | None = 1.0  # less is 0 in float32
    eval_every: Count | None = None
    patience: Count | None = None

    def __post_init__(self) -> None:
        if self.max_steps is not None and self.epochs is not None:
            found = f"max_steps {self.max_steps} and epochs {self.epochs}"
            raise BadSetting("train.max_steps", expected="max_steps or epochs", found=found, remedy="Give one of them.")


class Pace(NamedTuple):
    """When things are due, in steps."""

    total: int
    per_epoch: int
    eval_every: int


def pace(settings: TrainSettings, feed: Feed) -> Pace:
    """The number of steps, and when to evaluate. Raises BadSetting for more rows in a step than there are."""
    rows, step_rows = feed.n_train, settings.batch_size * settings.grad_accum
    if step_rows > rows:
        raise BadSetting(
            "train.batch_size",
            expected=f"at most the {counted(rows, 'training row')} in a step",
            found=f"{settings.batch_size:,} x {settings.grad_accum:,} (batch_size x grad_accum)",
            remedy=f"Give --batch-size {max(1, rows // settings.grad_accum)} or less, or more rows.",
        )
    per_epoch = math.ceil(rows / step_rows)
    total = settings.max_steps or (settings.epochs or 1) * per_epoch
    if settings.eval_every is not None:
        return Pace(total, per_epoch, settings.eval_every)
    validated = int(feed.valid.lengths_B.sum())
    return Pace(total, per_epoch, _budget(feed, total / per_epoch).interval(validated, total))


def affordable(settings: TrainSettings, feed: Feed) -> Feed:
    """With as many validation rows as the run can afford, see `validating`; with all where --eval-every is given."""
    if settings.eval_every is not None or not feed.valid:
        return feed
    paces = pace(settings, feed)
    n_rows = _budget(feed, paces.total / paces.per_epoch).rows(feed.lengths(feed.valid))
    return feed.validating(n_rows)


def _budget(feed: Feed, epochs: float) -> Budget:
    return Budget.of(epochs * int(feed.train.lengths_B.sum()), feed.eval_cost)
