"""When a run validates, and on which rows: a function of counts alone, at most a fifth of what is computed."""

import numpy as np
import pytest

from mlxtune.data.token_rows import listed
from mlxtune.data.types import TokenRow
from mlxtune.events import Eval, Start
from mlxtune.feed import Feed
from mlxtune.pace import TrainSettings, affordable, pace
from mlxtune.run import session as run
from mlxtune.validating import MOST, SHARE
from tests.support.run import Ask, Keep, last_bytes, recipes, write_rows


@pytest.fixture
def recipe(tmp_path):
    make = recipes(write_rows(tmp_path))
    return lambda out="run", **changes: make(out, **{"train__eval_every": None, **changes})


def rows(lengths):
    return listed(TokenRow(np.zeros(n, np.int32), np.ones(n, np.bool_), f"rows:{i}") for i, n in enumerate(lengths))


def evaluated_tokens(feed, paces):
    """All that is validated in the run, each time counted."""
    times = 1 + -(-paces.total // paces.eval_every)
    return times * int(feed.valid.lengths_B.sum())


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 40, 200, 5000])
@pytest.mark.parametrize("n_valid", [1, 7, 50, 500])
@pytest.mark.parametrize("cost", [0.5, 0.9])
def test_validation_takes_at_most_its_share_of_runs_of_every_length(steps, n_valid, cost):
    lengths = np.random.default_rng(0).integers(10, 90, 400 + n_valid)
    settings = TrainSettings(max_steps=steps, batch_size=4)
    whole = Feed(rows(lengths[:400]), rows(lengths[400:]), 4, 1, seed=0, eval_cost=cost)
    feed = affordable(settings, whole)
    paces = pace(settings, feed)
    validated = cost * evaluated_tokens(feed, paces)
    trained = steps * lengths[:400].sum() / 100
    assert validated <= SHARE * (trained + validated) or len(feed.valid) == 1
    assert 1 <= -(-steps // paces.eval_every) <= MOST
    if steps == 5000:
        assert (len(feed.valid), -(-steps // paces.eval_every)) == (n_valid, MOST)


def test_an_interval_that_is_given_is_kept_with_all_rows():
    whole = Feed(rows([20] * 40), rows([20] * 40), 4, 1, seed=0)
    settings = TrainSettings(max_steps=3, eval_every=1)
    assert affordable(settings, whole) is whole
    assert pace(settings, whole).eval_every == 1


def test_a_short_run_says_how_many_rows_validate(recipe):
    keep = Keep()
    run.start(recipe(train__max_steps=2), [keep])
    (start,) = [event for event in keep if isinstance(event, Start)]
    assert start.valid_rows == 1
    assert (
        "Validation takes 1 of 3 rows: all would take more than 20% of the time. --eval-every has all." in start.notes
    )
    assert {event.rows for event in keep if isinstance(event, Eval)} == {1}


@pytest.mark.slow
def test_how_a_run_validates_changes_no_byte_of_what_it_trains(recipe):
    ends = [run.start(recipe(f"every {every}", train__eval_every=every)) for every in (None, 1, 6)]
    assert len({tuple(last_bytes(end.run)) for end in ends}) == 1


@pytest.mark.slow
def test_a_resumed_run_validates_the_rows_that_it_began_with(recipe):
    keep = Keep()
    run.start(recipe(train__max_steps=2))
    run.start(recipe(train__max_steps=30), [keep])
    assert {event.rows for event in keep if isinstance(event, Eval)} == {1}
    unbroken, again = recipe("unbroken", train__max_steps=9), recipe("again", train__max_steps=9)
    run.start(again, [Ask(4)])
    ends = [run.start(each) for each in (unbroken, again)]
    assert ends[0].best_eval_loss == ends[1].best_eval_loss
    assert last_bytes(ends[0].run) == last_bytes(ends[1].run)
