"""The loop, with a learner that only counts: what is trained when, and where it goes on."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from mlxtune import engine
from mlxtune.backends.base import LossSum, StepResult
from mlxtune.data.token_rows import listed
from mlxtune.data.types import TokenRow
from mlxtune.engine import NotFinite
from mlxtune.errors import BadSetting
from mlxtune.events import Eval, Memory, Step
from mlxtune.feed import Feed
from mlxtune.optim.schedule import Constant
from mlxtune.pace import TrainSettings
from mlxtune.progress import Progress


class Counting:
    """Remembers the rows of each step; its loss is what it is told."""

    def __init__(self, losses=(), eval_losses=()):
        self.steps, self.announced, self.losses, self.eval_losses = [], [], list(losses), list(eval_losses)

    def read_ahead(self, batches):
        self.announced.append([batch.rows for batch in batches])

    def step(self, batches, learning_rate):  # noqa: ARG002 - the protocol
        self.steps.append([batch.rows for batch in batches])
        n_tokens = sum(batch.n_supervised for batch in batches)
        loss = self.losses.pop(0) if self.losses else 1.0
        return StepResult(LossSum(loss * n_tokens, n_tokens), 1.0, skipped=False)

    def evaluate(self, batch):
        loss = self.eval_losses.pop(0) if self.eval_losses else 1.0
        return LossSum(loss * batch.n_supervised, batch.n_supervised)

    def memory(self):
        return Memory(0, 0, 0)


def rows(count):
    supervised = np.array([False, True, True])
    return listed(TokenRow(np.arange(3, dtype=np.int32), supervised, f"rows:{i}") for i in range(count))


def feed(train=10, valid=1, batch_size=2, grad_accum=2):
    return Feed(rows(train), rows(valid), batch_size, grad_accum, seed=0)


def run(learner, feed, progress=None, **settings):
    settings = TrainSettings(batch_size=feed.batch_size, grad_accum=feed.grad_accum, **settings)
    return list(engine.train(learner, feed, settings, Constant(), progress or Progress()))


def test_every_row_is_trained_once_an_epoch_and_the_tail_included():
    learner = Counting()
    run(learner, feed(train=11), epochs=3)
    per_epoch = math.ceil(11 / 4)
    for epoch in range(3):
        steps = learner.steps[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(row for step in steps for batch in step for row in batch) == list(range(11))
    assert len(learner.steps) == 3 * per_epoch


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    frequent, rare = Counting(), Counting()
    run(frequent, feed(), epochs=2, eval_every=1)
    run(rare, feed(), epochs=2, eval_every=1000)
    assert frequent.steps == rare.steps
    assert frequent.steps[:3] != frequent.steps[3:]


def test_the_next_batches_are_made_while_a_step_computes_and_announced_before_it():
    learner, made = Counting(), threading.Event()
    step, announce = learner.step, learner.read_ahead

    def announcing(batches):
        announce(batches)
        if len(learner.announced) == 2:
            made.set()

    def waiting(batches, learning_rate):
        assert made.wait(timeout=30)  # the second window's are made during the first step, or never
        return step(batches, learning_rate)

    learner.step, learner.read_ahead = waiting, announcing
    run(learner, feed(), epochs=2)
    assert learner.announced[: len(learner.steps)] == learner.steps
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("mlxtune-ahead")]


def test_a_fault_in_making_a_batch_ends_the_loop_at_its_step():
    learner, announced = Counting(), []

    def failing(batches):
        announced.append(batches)
        if len(announced) == 3:
            raise OSError("the disk is gone")

    learner.read_ahead = failing
    with pytest.raises(OSError, match="the disk is gone"):
        run(learner, feed(), epochs=2)
    assert len(learner.steps) == 2


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_a_loop_that_was_left_goes_on_with_the_next_window(stop):
    whole, first, second, progress = Counting(), Counting(), Counting(), Progress()
    run(whole, feed(), epochs=2)
    settings = TrainSettings(batch_size=2, grad_accum=2, epochs=2)
    for event in engine.train(first, feed(), settings, Constant(), progress):
        if isinstance(event, Step) and event.step == stop:
            break
    run(second, feed(), replace(progress), epochs=2)
    assert first.steps + second.steps == whole.steps


def test_validation_runs_before_training_at_its_interval_and_at_the_end():
    events = run(Counting(), feed(), max_steps=7, eval_every=3)
    assert [event.step for event in events if isinstance(event, Eval)] == [0, 3, 6, 7]


def test_patience_counts_validations_without_a_gain():
    learner = Counting(eval_losses=[3.0, 2.0, 2.5, 2.0, 1.0])
    events = run(learner, feed(), max_steps=20, eval_every=1, patience=2)
    assert [event.best for event in events if isinstance(event, Eval)] == [False, True, False, False]
    assert max(event.step for event in events) == 3


def test_a_loss_that_is_not_finite_names_the_step_and_its_rows():
    learner = Counting(losses=[1.0, math.nan])
    with pytest.raises(NotFinite) as caught:
        run(learner, feed(), max_steps=5)
    assert caught.value.step == 2
    assert caught.value.rows == [row for batch in learner.steps[1] for row in batch]


def test_more_rows_in_a_step_than_there_are_is_refused():
    with pytest.raises(BadSetting, match="at most the 3 training rows"):
        run(Counting(), feed(train=3), epochs=1)


def test_the_loss_is_divided_once_by_all_supervised_tokens():
    step = next(e for e in run(Counting(losses=[2.5]), feed(train=12), max_steps=1) if isinstance(e, Step))
    assert step.loss == 2.5
    assert step.tokens == 4 * 2
