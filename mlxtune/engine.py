"""The loop: windows of batches x learner -> events. No files, no screen, no array library, no formula of a loss.

Whoever wants to stop it takes no more events, and whoever wants to go on later keeps its `Progress`.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from mlxtune.backends.base import Learner, LossSum, StepResult
from mlxtune.data.batches import collate
from mlxtune.data.types import Batch, TokenRow
from mlxtune.events import Eval, Event, Memory, Notice, Step
from mlxtune.feed import Feed, Window
from mlxtune.optim.schedule import Schedule, learning_rate
from mlxtune.pace import Pace, TrainSettings, pace
from mlxtune.prefetch import made_ahead
from mlxtune.progress import Progress

OVERFLOWED = "The float16 gradient overflowed: nothing was updated, the loss scale is halved."


class NotFinite(Exception):
    """What a run cannot go on with. what: should have been finite; rows: of the step's batches, if it was a step's."""

    def __init__(self, step: int, what: str, found: str, rows: Sequence[int] = ()) -> None:
        super().__init__(step, what, found, rows)
        self.step, self.what, self.found, self.rows = step, what, found, rows


class Evaluator(Protocol):
    def evaluate(self, batch: Batch) -> LossSum:
        """The summed loss of a batch."""
        ...


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
            rate, began = learning_rate(schedule, progress.step + 1, paces.total), time.perf_counter()
            result = learner.step(batches, rate)
            step = _taken(progress, batches, result, rate, time.perf_counter() - began, learner.memory())
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


def _taken(
    progress: Progress, batches: Sequence[Batch], result: StepResult, rate: float, seconds: float, memory: Memory
) -> Step:
    """The event of a step, which `progress` is told of. Raises NotFinite."""
    loss, n_tokens = result.loss.mean, sum(batch.n_supervised for batch in batches)
    _check_finite(progress.step + 1, loss, result, [row for batch in batches for row in batch.rows])
    progress.stepped(loss, n_tokens, seconds)
    return Step(
        step=progress.step,
        epoch=progress.epoch + 1,
        loss=loss,
        tokens=n_tokens,
        tokens_per_second=n_tokens / seconds,
        learning_rate=rate,
        grad_norm=result.grad_norm,
        memory=memory,
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
