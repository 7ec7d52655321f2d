"""The objectives' formulas: by hand, by differences, and by MLX's differentiation of the same formula."""

import numpy as np
import pytest

from mlxtune.objectives.base import Found, Targets
from mlxtune.objectives.dpo import Dpo
from mlxtune.objectives.sft import Sft

# Two pairs of answers of one token each: the chosen one first.
POLICY = np.array([-10.0, -11.0, -12.0, -11.5])
REFERENCE = np.array([-10.5, -10.8, -11.0, -12.0])
ROWS = np.arange(4)
OBJECTIVES = [Sft(), Dpo(), Dpo(beta=0.7), Dpo(loss_type="hinge"), Dpo(beta=0.02, loss_type="hinge")]


def targets(rows_N=ROWS, reference_B=REFERENCE):
    return Targets(rows_N, len(reference_B), reference_B)


def losses(objective):
    """Of each pair alone."""
    pairs = (slice(0, 2), slice(2, 4))
    return [objective.loss(np, POLICY[pair], targets(np.arange(2), REFERENCE[pair])).loss_sum for pair in pairs]


def test_the_losses_of_two_pairs_are_those_computed_by_hand():
    assert losses(Dpo(beta=0.1)) == pytest.approx([0.6587596, 0.7709571], abs=1e-7)
    assert losses(Dpo(beta=0.1, loss_type="hinge")) == pytest.approx([0.93, 1.15])


def test_accuracy_and_margins_are_counted_by_pair():
    found = Dpo(beta=0.1).loss(np, POLICY, targets())
    assert found.metrics["reward_accuracy"] == 1.0  # of two; the means of both pairs would say otherwise
    assert found.metrics["reward_margin"] == pytest.approx(0.07 - 0.15)
    assert (found.metrics["chosen_logp"], found.metrics["rejected_logp"]) == (-22.0, -22.5)


def test_a_model_that_is_its_own_reference_has_the_logarithm_of_two_as_loss():
    assert Dpo().loss(np, POLICY, targets(reference_B=POLICY)).loss_sum == pytest.approx(2 * np.log(2))


def random_tokens():
    """Thirty tokens of six answers."""
    random = np.random.default_rng(0)
    logps_N, rows_N = -5 * random.random(30), np.sort(random.integers(0, 6, 30))
    return logps_N, targets(rows_N, -15 * random.random(6))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_slopes_are_those_of_central_differences(objective):
    logps_N, given = random_tokens()
    steps_NN = 1e-6 * np.eye(len(logps_N))
    differences_N = [
        (objective.loss(np, logps_N + step, given)[0] - objective.loss(np, logps_N - step, given)[0]) / 2e-6
        for step in steps_NN
    ]
    slopes_N = objective.slopes(np, logps_N, given)
    np.testing.assert_allclose(slopes_N, differences_N, rtol=1e-6, atol=1e-7)
    with pytest.raises(AssertionError):  # the comparison would see a fault of a thousandth
        np.testing.assert_allclose(1.001 * slopes_N, differences_N, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_slopes_are_those_that_mlx_finds_in_the_same_formula(objective):
    mx = pytest.importorskip("mlx.core")
    logps_N, given = random_tokens()
    on_mlx = Targets(mx.array(given.rows_N.astype(np.int32)), given.n_rows, mx.array(given.reference_B))
    gradient = mx.grad(lambda logps_N: objective.loss(mx, logps_N, on_mlx).loss_sum)(mx.array(logps_N))
    slopes_N = objective.slopes(np, logps_N, given)
    np.testing.assert_allclose(np.array(gradient), slopes_N, rtol=1e-4)  # margins of sums of about 15, in float32


@pytest.mark.parametrize("margin", [-1e4, 1e4])
def test_rewards_far_apart_overflow_nothing(margin):
    far = np.array([margin / 2, -margin / 2], np.float32)
    given = targets(np.arange(2), np.zeros(2, np.float32))
    found, slopes_N = Dpo(beta=1.0).loss(np, far, given), Dpo(beta=1.0).slopes(np, far, given)
    assert found.loss_sum == pytest.approx(max(0.0, -margin))
    np.testing.assert_allclose(slopes_N, [-1.0, 1.0] if margin < 0 else [0.0, 0.0])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_pairs_in_several_batches_sum_to_those_in_one(objective):
    logps_N, given = random_tokens()
    parts = []
    for first in (0, 2, 4):
        inside = (given.rows_N >= first) & (given.rows_N < first + 2)
        some = targets(given.rows_N[inside] - first, given.reference_B[first : first + 2])
        parts.append(objective.loss(np, logps_N[inside], some))
    together = parts[0].plus(parts[1]).plus(parts[2])
    np.testing.assert_allclose(together.arrays(), objective.loss(np, logps_N, given).arrays())
    assert sum(objective.count(2, 10) for _ in parts) == objective.count(6, 30)


def test_what_is_found_is_added_by_name():
    assert Found(1.0, {"a": 2.0}).plus(Found(3.0, {"a": 4.0})) == Found(4.0, {"a": 6.0})
