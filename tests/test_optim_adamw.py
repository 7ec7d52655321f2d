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
