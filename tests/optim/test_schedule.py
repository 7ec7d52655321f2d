"""The learning rate: warmup, shapes, and agreement with transformers' schedules shifted by one step."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from mlxtune.optim.schedule import Constant, Cosine, Linear, learning_rate


def ours(schedule, total):
    return [learning_rate(schedule, step, total) for step in range(1, total + 1)]


def theirs(make, warmup, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer, warmup, total), []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("kind", "make"), [(Linear, get_linear_schedule_with_warmup), (Cosine, get_cosine_schedule_with_warmup)]
)
@pytest.mark.parametrize("warmup", [0, 7])
def test_the_decay_is_that_of_transformers(kind, make, warmup):
    rates = ours(kind(learning_rate=1.0, warmup_steps=warmup), 40)
    assert rates[warmup:] == pytest.approx(theirs(make, warmup, 40)[warmup:], abs=1e-12)


@pytest.mark.parametrize("kind", [Constant, Linear, Cosine])
def test_no_step_is_wasted_at_a_rate_of_zero(kind):
    rates = ours(kind(learning_rate=1e-3, warmup_steps=5), 50)
    assert all(rate > 0 for rate in rates)
    assert rates[4] == rates[5] == 1e-3
    assert rates[0] == pytest.approx(1e-3 / 5)


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_the_rate_never_falls_below_the_minimum(kind):
    rates = ours(kind(learning_rate=1.0, min_learning_rate=0.1), 1000)
    assert min(rates) >= 0.1
    assert rates[-1] == pytest.approx(0.1, abs=2e-3)
