"""Stochastic rounding: always a neighbour, exact on average, and small updates count."""

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlxtune.optim.rounding import stochastic

KINDS = pytest.mark.parametrize(("kind", "torch_kind"), [("bfloat16", torch.bfloat16), ("float16", torch.float16)])
NAMESPACES = pytest.mark.parametrize("xp", [np, mx], ids=["numpy", "mlx"])
RNG = np.random.default_rng(0)


def round_once(xp, weight, kind):
    noise = RNG.integers(0, 2**16, weight.shape, np.uint32)
    return np.array(stochastic(xp, xp.array(weight), kind, xp.array(noise)))


def neighbours(weight, torch_kind):
    """The 16-bit numbers at or next below and above, by PyTorch's own types."""
    nearest = torch.tensor(weight).to(torch_kind)
    exact = nearest.float().numpy() == weight
    below = torch.where(nearest.double() > torch.tensor(weight).double(), step_down(nearest), nearest)
    above = torch.where(nearest.double() < torch.tensor(weight).double(), step_up(nearest), nearest)
    return np.where(exact, weight, below.float().numpy()), np.where(exact, weight, above.float().numpy())


def step_up(x):
    return torch.nextafter(x, torch.full_like(x, float("inf")))


def step_down(x):
    return torch.nextafter(x, torch.full_like(x, float("-inf")))


@NAMESPACES
@KINDS
def test_a_rounded_weight_is_one_of_its_two_neighbours(xp, kind, torch_kind):
    weight = (RNG.standard_normal(20_000) * np.logspace(-7.5, 3, 20_000)).astype(np.float32)
    rounded = round_once(xp, weight, kind)
    below, above = neighbours(weight, torch_kind)
    assert np.all((rounded == below) | (rounded == above))
    assert np.any(rounded == below)
    assert np.any(rounded == above)


@NAMESPACES
@KINDS
def test_rounding_is_exact_on_average(xp, kind, torch_kind):
    for value in (1.0013, -3.1e-5, 0.02, 7.7e-6):
        weight = np.full(200_000, value, np.float32)
        below, above = neighbours(weight[:1], torch_kind)
        spread = (above - below)[0] / np.sqrt(len(weight))
        assert abs(round_once(xp, weight, kind).mean(dtype=np.float64) - weight[0]) < 4 * spread


@KINDS
def test_a_number_of_the_type_stays_as_it_is(kind, torch_kind):
    weight = torch.tensor(RNG.standard_normal(1000).astype(np.float32)).to(torch_kind).float().numpy()
    np.testing.assert_array_equal(round_once(np, weight, kind), weight)


def test_updates_below_the_spacing_of_bfloat16_count_and_would_not_by_rounding_to_nearest():
    weight, step = np.full(20_000, 0.05, np.float32), np.float32(1e-5)
    stochastic_weight, nearest = weight.copy(), torch.tensor(weight).to(torch.bfloat16)
    for _ in range(100):
        stochastic_weight = round_once(np, stochastic_weight - step, "bfloat16")
        nearest = (nearest.float() - step).to(torch.bfloat16)
    assert stochastic_weight.mean() == pytest.approx(0.05 - 100 * 1e-5, rel=2e-3)
    assert nearest.float().mean().item() == pytest.approx(0.05, rel=2e-3)
