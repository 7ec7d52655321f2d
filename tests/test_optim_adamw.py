"""AdamW against PyTorch's, on both array namespaces."""

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlxtune.optim import adamw
from mlxtune.optim.adamw import AdamW

NAMESPACES = pytest.mark.parametrize("xp", [np, mx], ids=["numpy", "mlx"])


def torch_weights(weight, gradients, settings, rate):
    parameter = torch.nn.Parameter(torch.tensor(weight))
    optimizer = torch.optim.AdamW(
        [parameter],
        lr=rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach().numpy()


def our_weights(xp, weight, gradients, settings, rate):
    current, moments = xp.array(weight), adamw.init(xp, weight.shape)
    for step, gradient in enumerate(gradients, start=1):
        scalars = adamw.scalars(xp, settings, step, rate)
        current, moments = adamw.update(xp, scalars, current, xp.array(gradient), moments, decays=True)
    return np.array(current)


@NAMESPACES
@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.1])
def test_adamw_matches_torch_over_fifty_steps(xp, rate):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 24), np.float32)
    gradients = rng.standard_normal((50, 16, 24), np.float32) * np.logspace(-8, 2, 24, dtype=np.float32)
    settings = AdamW(weight_decay=0.1)
    expected = torch_weights(weight, gradients, settings, rate)
    np.testing.assert_allclose(our_weights(xp, weight, gradients, settings, rate), expected, rtol=1e-6, atol=1e-6)


@NAMESPACES
def test_the_comparison_notices_a_missing_bias_correction(xp, monkeypatch):
    rng = np.random.default_rng(0)
    weight, gradients = rng.standard_normal((4, 4), np.float32), rng.standard_normal((50, 4, 4), np.float32)
    corrected = adamw.scalars

    def uncorrected(xp, settings, step, rate):
        one = xp.array(1.0, dtype=xp.float32)
        return corrected(xp, settings, step, rate)._replace(rate=one * rate, v_correction=one)

    monkeypatch.setattr(adamw, "scalars", uncorrected)
    expected = torch_weights(weight, gradients, AdamW(), 1e-3)
    assert np.abs(our_weights(xp, weight, gradients, AdamW(), 1e-3) - expected).max() > 1e-3


@NAMESPACES
def test_arithmetic_stays_float32(xp):
    scalars = adamw.scalars(xp, AdamW(), 1, 1e-3)
    gradient = xp.ones((3, 3), dtype=xp.float32)
    weight, moments = adamw.update(xp, scalars, gradient, gradient, adamw.init(xp, (3, 3)), decays=True)
    assert {array.dtype for array in (weight, *moments, *scalars)} == {gradient.dtype}


def test_norms_and_biases_decay_only_when_asked():
    assert adamw.decays(AdamW(), (4, 4))
    assert not adamw.decays(AdamW(), (4,))
    assert adamw.decays(AdamW(decay_norms_and_biases=True), (4,))
    assert not adamw.decays(AdamW(weight_decay=0.0), (4, 4))


def bfloat16_moments(xp, gradients, rng):
    """Moments that every step stores in bfloat16, as float32."""
    moments = adamw.init(xp, gradients[0].shape)
    for step, gradient in enumerate(gradients, start=1):
        scalars = adamw.scalars(xp, AdamW(), step, 1e-3)
        _, moments = adamw.update(xp, scalars, gradient, gradient, moments, decays=False)
        bits = rng.integers(0, 2**32, gradient.shape, np.uint32)
        moments = adamw.rounded(xp, moments, xp.array(bits))
    return [np.array(moment).astype(np.float64) for moment in moments]


def errors_of_moments(xp):
    """Of m and v after 300 steps, the mean error and how far chance may take it, as shares of the moment.

    All entries have the same gradients, which become small, so that v falls by a thousandth a step.
    """
    sizes = np.where(np.arange(300) < 50, 1.0, 0.03) * np.random.default_rng(0).normal(1.0, 0.5, 300)
    gradients = [xp.ones((20_000,), dtype=xp.float32) * float(size) for size in sizes]
    exact = adamw.Moments(0.0, 0.0)
    for size in np.float32(sizes).astype(float):
        exact = adamw.Moments(0.9 * exact.m + 0.1 * size, 0.999 * exact.v + 0.001 * size**2)
    found = bfloat16_moments(xp, gradients, np.random.default_rng(1))
    shares = [moment / true - 1 for moment, true in zip(found, exact, strict=True)]
    return [(abs(share.mean()), 4 * share.std() / np.sqrt(share.size)) for share in shares]


@NAMESPACES
def test_moments_in_bfloat16_are_those_of_float32_on_average(xp):
    for error, chance in errors_of_moments(xp):
        assert error < chance < 2e-3


@NAMESPACES
def test_rounding_moments_to_the_nearest_would_freeze_v(xp, monkeypatch):
    monkeypatch.setattr(adamw, "stochastic", lambda xp, array, *_: xp.array(nearest_bfloat16(np.array(array))))
    _, (error, _) = errors_of_moments(xp)
    assert error > 0.1


def nearest_bfloat16(array):
    return torch.tensor(array).bfloat16().float().numpy()


@NAMESPACES
def test_m_and_v_are_rounded_apart(xp):
    third = xp.array(np.full(50_000, 1 + 2.0**-7 / 3, np.float32))
    bits = np.random.default_rng(0).integers(0, 2**32, 50_000, np.uint32)
    m, v = (np.array(moment) > 1 for moment in adamw.rounded(xp, adamw.Moments(third, third), xp.array(bits)))
    assert m.mean() == pytest.approx(1 / 3, abs=0.01)
    assert v.mean() == pytest.approx(1 / 3, abs=0.01)
    assert abs(np.corrcoef(m, v)[0, 1]) < 0.02
