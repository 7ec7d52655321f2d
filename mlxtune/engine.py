"""The loop: batches x learner -> events. No files, no screen, no array library.

The micro-batches of a step are made in a thread during the step before. `Progress` is all that the loop knows of where
it is; who wants to stop it takes no more events, and who wants to go on later keeps it.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

from pydantic import ConfigDict, Field

from mlxtune.backends.base import Learner, LossSum, StepResult
from mlxtune.data.batches import collate
from mlxtune.data.types import Batch, TokenRow
from mlxtune.errors import BadSetting
from mlxtune.events import Eval, Event, Notice, Step
from mlxtune.feed import Feed, Window
from mlxtune.format import counted
from mlxtune.optim.schedule import Schedule, learning_rate
from mlxtune.prefetch import made_ahead
from mlxtune.settings import section
from mlxtune.validating import Budget

Count = Annotated[int, Field(ge=1, le=10**9)]
OVERFLOWED = "The float16 gradient overflowed: nothing was updated, the loss scale is halved."


@section
class TrainSettings:
    """How long and in what portions. One of max_steps and epochs; neither is one epoch. clip_norm None: no clipping."""

    max_steps: Count | None = None
    epochs: Count | None = None
    batch_size: Count = 4
    grad_accum: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
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


@dataclass
class Progress:
    """Where a run is. Everything in it goes into a checkpoint."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # of a checkpoint that is read back

    step: int = 0
    epoch: int = 0  # from 0
    window: int = 0  # windows of this epoch that are done
    tokens: int = 0
    packed: bool = False  # the order of the rows, see Feed
    valid_rows: int = 0  # that validate: a resumed run stays with them, or losses could not be compared
    seconds: float = 0.0  # spent training and evaluating
    first_loss: float | None = None  # of the first step, whose rows were seen by what nothing had trained yet
    last_loss: float | None = None
    evaluated_step: int = -1  # the last step at which the validation loss was taken
    eval_loss: float | None = None  # the validation loss at that step
    eval_seconds: float = 0.0  # that it took
    start_loss: float | None = None  # the validation loss before training, which is no result
    best_loss: float | None = None  # of what was trained
    best_step: int | None = None
    evals_since_best: int = 0  # validations without a gain, on the one before training too

    def take(self, event: Eval) -> None:
        """Note a validation of the schedule."""
        before = [loss for loss in (self.start_loss, self.best_loss) if loss is not None]
        self.evals_since_best = 0 if all(event.loss < loss for loss in before) else self.evals_since_best + 1
        if event.step == 0:
            self.start_loss = event.loss
        elif event.best:
            self.best_loss, self.best_step = event.loss, event.step
        self.evaluated_step, self.eval_loss = event.step, event.loss
        self.eval_seconds, self.seconds = event.seconds, self.seconds + event.seconds


class NotFinite(Exception):
    """What a run cannot go on with. what: should have been finite; rows: of the step's batches, if it was a step's."""

    def __init__(self, step: int, what: str, found: str, rows: Sequence[int] = ()) -> None:
        super().__init__(step, what, found, rows)
        self.step, self.what, self.found, self.rows = step, what, found, rows


class Evaluator(Protocol):
    def evaluate(self, batch: Batch) -> LossSum:
        """The summed loss of a batch."""
        ...


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
    validated = sum(len(row.tokens) for row in feed.valid)
    return Pace(total, per_epoch, _budget(feed, total / per_epoch).interval(validated, total))


def affordable(settings: TrainSettings, feed: Feed) -> Feed:
    """With as many validation rows as the run can afford, see `validating`; with all where --eval-every is given."""
    if settings.eval_every is not None or not feed.valid:
        return feed
    paces = pace(settings, feed)
    n_rows = _budget(feed, paces.total / paces.per_epoch).rows(feed.lengths(feed.valid))
    return feed.validating(n_rows)


def _budget(feed: Feed, epochs: float) -> Budget:
    return Budget.of(epochs * sum(len(row.tokens) for row in feed.train), feed.eval_cost)


def train(
    learner: Learner,
    feed: Feed,
    settings: TrainSettings,
    schedule: Schedule,
    progress: Progress,
    before_step: Callable[[int, Sequence[tuple[int, ...]]], None] = lambda *_: None,
) -> Iterator[Event]:
    """Train from `progress` to the end, updating it before each event. Raises NotFinite.

    before_step: is given each step's number and row numbers before it begins; what it raises ends the loop there.
    """
    paces = pace(settings, feed)
    windows = feed.windows_from(progress.epoch, progress.window)
    with made_ahead(windows, lambda window: _batches(learner, feed, window)) as ahead:
        while True:
            if eval_is_due(feed, progress, paces):
                event = validate(learner, feed, progress)
                progress.take(event)
                yield event
            if progress.step >= paces.total or _out_of_patience(settings, progress):
                return
            window, batches = next(ahead)
            progress.epoch, progress.window = window.epoch, window.number
            before_step(progress.step + 1, window.batches)
            step = _step(learner, batches, learning_rate(schedule, progress.step + 1, paces.total), progress)
            yield step
            if step.skipped:
                yield Notice(step.step, OVERFLOWED)


def _batches(learner: Learner, feed: Feed, window: Window) -> list[Batch]:
    batches = feed.batches(window.batches)
    learner.read_ahead(batches)
    return batches


def eval_is_due(feed: Feed, progress: Progress, paces: Pace) -> bool:
    """Whether the validation loss at this step is still to be taken: step 0, every eval_every steps, and the last."""
    due = progress.step % paces.eval_every == 0 or progress.step >= paces.total
    return bool(feed.valid) and due and progress.evaluated_step != progress.step


def _out_of_patience(settings: TrainSettings, progress: Progress) -> bool:
    return settings.patience is not None and progress.evals_since_best >= settings.patience


def _step(learner: Learner, batches: list[Batch], rate: float, progress: Progress) -> Step:
    began = time.perf_counter()
    result = learner.step(batches, rate)
    seconds = time.perf_counter() - began
    loss, n_tokens = result.loss.loss_sum / result.loss.counted, sum(batch.n_supervised for batch in batches)
    _check_finite(progress.step + 1, loss, result, [row for batch in batches for row in batch.rows])
    progress.step, progress.window = progress.step + 1, progress.window + 1
    progress.tokens, progress.seconds = progress.tokens + n_tokens, progress.seconds + seconds
    progress.last_loss = loss
    if progress.step == 1:
        progress.first_loss = loss
    return Step(
        step=progress.step,
        epoch=progress.epoch + 1,
        loss=loss,
        tokens=n_tokens,
        tokens_per_second=n_tokens / seconds,
        learning_rate=rate,
        grad_norm=result.grad_norm,
        memory=learner.memory(),
        seconds=seconds,
        skipped=result.skipped,
        metrics=result.loss.means,
    )


def _check_finite(step: int, loss: float, result: StepResult, rows: Sequence[int]) -> None:
    if not math.isfinite(loss) or not (math.isfinite(result.grad_norm) or result.skipped):
        found = f"loss {loss}, gradient norm {result.grad_norm}"
        raise NotFinite(step, "a finite loss and gradient", found, rows)
    if result.not_finite:
        named = ", ".join(result.not_finite[:3]) + (" and more" if result.not_finite[3:] else "")
        found = f"NaN or infinity in {len(result.not_finite):,} tensors: {named}"
        raise NotFinite(step, "finite weights and moments after the step", found, rows)


def validate(learner: Learner, feed: Feed, progress: Progress) -> Eval:
    """The loss of `feed.evaluated` with the weights as they are; `progress` is not told. Raises NotFinite."""
    began = time.perf_counter()
    total, n_tokens = evaluate(learner, feed.evaluated, feed.eval_batches())
    seconds = time.perf_counter() - began
    step, loss = progress.step, total.mean
    if not math.isfinite(loss):
        which = "validation loss" if feed.valid else "loss of the first step's rows"
        raise NotFinite(step, f"a finite {which}", str(loss))
    best = step > 0 and (progress.best_loss is None or loss < progress.best_loss)
    return Eval(
        step=step,
        loss=loss,
        perplexity=None if total.metrics else perplexity(loss),
        tokens=n_tokens,
        rows=feed.n_valid,
        seconds=seconds,
        best=best,
        memory=learner.memory(),
        metrics=total.means,
    )


def evaluate(learner: Evaluator, rows: Sequence[TokenRow], batches: Iterable[Sequence[int]]) -> tuple[LossSum, int]:
    """The sums over batches of row numbers, and how many supervised tokens they have."""
    total, n_tokens = LossSum(0.0, 0), 0
    for numbers in batches:
        batch = collate(rows, numbers)
        total, n_tokens = total.plus(learner.evaluate(batch)), n_tokens + batch.n_supervised
    return total, n_tokens


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats; infinity where a float cannot hold it."""
    return math.exp(loss) if loss < 709 else math.inf
