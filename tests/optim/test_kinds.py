"""Every optimizer of the table against PyTorch's, on both array namespaces; and its slots in bfloat16."""

from typing import get_args

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlxtune.optim import moments, rounding
from mlxtune.optim.adam import Adam
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.choose import AnyOptimizer
from mlxtune.optim.sgd import Sgd

NAMESPACES = pytest.mark.parametrize("xp", [np, mx], ids=["numpy", "mlx"])


def of_torch(settings, parameters, rate):
    """PyTorch's optimizer with these settings."""
    if isinstance(settings, Sgd):
        changes = {"momentum": settings.momentum, "nesterov": settings.nesterov}
        return torch.optim.SGD(parameters, lr=rate, weight_decay=settings.weight_decay, **changes)
    kind = {AdamW: torch.optim.AdamW, Adam: torch.optim.Adam}[type(settings)]
    betas = (settings.beta1, settings.beta2)
    return kind(parameters, lr=rate, betas=betas, eps=settings.epsilon, weight_decay=settings.weight_decay)


def torch_weights(weight, gradients, settings, rate):
    parameter = torch.nn.Parameter(torch.tensor(weight))
    optimizer = of_torch(settings, [parameter], rate)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    return parameter.detach().numpy()


def our_weights(xp, weight, gradients, settings, rate):
    current, slots = xp.array(weight), settings.init(xp, weight.shape)
    for step, gradient in enumerate(gradients, start=1):
        scalars = settings.scalars(xp, step, rate)
        current, slots = settings.update(xp, scalars, current, xp.array(gradient), slots, decays=True)
    return np.array(current)


CASES = {
    "adamw": AdamW(),
    "adamw, decay": AdamW(weight_decay=0.1),
    "adamw, no decay": AdamW(weight_decay=0.0, beta1=0.5, beta2=0.9, epsilon=1e-4),
    "adam": Adam(),
    "adam, decay": Adam(weight_decay=0.1),
    "adam, no first moment": Adam(weight_decay=0.5, beta1=0.0, beta2=0.99),
    "sgd": Sgd(),
    "sgd, decay": Sgd(weight_decay=0.1),
    "sgd, momentum": Sgd(momentum=0.9),
    "sgd, momentum, decay": Sgd(momentum=0.5, weight_decay=0.1),
    "sgd, nesterov": Sgd(momentum=0.9, nesterov=True),
    "sgd, nesterov, decay": Sgd(momentum=0.99, nesterov=True, weight_decay=0.01),
}
SHAPES = {
    "matrix": ((16, 24), np.logspace(-8, 2, 24, dtype=np.float32)),
    "vector": ((37,), 1.0),
    "three axes": ((3, 4, 5), 0.01),
    "one number": ((1,), 1.0),
}


@NAMESPACES
@pytest.mark.parametrize("rate", [1e-5, 1e-3])
@pytest.mark.parametrize(("shape", "scale"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_fifty_steps_are_those_of_torch(xp, settings, shape, scale, rate):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape, np.float32)
    gradients = rng.standard_normal((50, *shape), np.float32) * scale
    expected = torch_weights(weight, gradients, settings, rate)
    np.testing.assert_allclose(our_weights(xp, weight, gradients, settings, rate), expected, rtol=1e-6, atol=1e-6)


@NAMESPACES
@pytest.mark.parametrize("settings", [each for each in CASES.values() if each.name != "sgd"], ids=str)
def test_fifty_steps_at_a_high_rate_are_those_of_torch(xp, settings):
    rng = np.random.default_rng(0)
    weight, gradients = rng.standard_normal((16, 24), np.float32), rng.standard_normal((50, 16, 24), np.float32)
    expected = torch_weights(weight, gradients, settings, 0.1)
    np.testing.assert_allclose(our_weights(xp, weight, gradients, settings, 0.1), expected, rtol=1e-6, atol=1e-6)


def test_every_optimizer_of_the_table_is_compared():
    assert {type(settings) for settings in CASES.values()} == {*get_args(AnyOptimizer)}


@NAMESPACES
@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (Adam(weight_decay=0.1), AdamW(weight_decay=0.1)),
        (AdamW(weight_decay=0.1), AdamW(weight_decay=0.0)),
        (Sgd(momentum=0.9), Sgd(momentum=0.8)),
        (Sgd(momentum=0.9), Sgd(momentum=0.9, nesterov=True)),
        (Sgd(weight_decay=0.1), Sgd()),
    ],
    ids=str,
)
def test_the_comparison_notices_another_convention(xp, settings, fault):
    rng = np.random.default_rng(0)
    weight, gradients = rng.standard_normal((4, 4), np.float32), rng.standard_normal((50, 4, 4), np.float32)
    expected = torch_weights(weight, gradients, settings, 1e-3)
    assert np.abs(our_weights(xp, weight, gradients, fault, 1e-3) - expected).max() > 1e-4


@NAMESPACES
def test_the_comparison_notices_a_missing_bias_correction(xp, monkeypatch):
    rng = np.random.default_rng(0)
    weight, gradients = rng.standard_normal((4, 4), np.float32), rng.standard_normal((50, 4, 4), np.float32)
    corrected = moments.Moments.of_step

    def uncorrected(self, step, rate, decay):
        return corrected(self, step, rate, decay)._replace(rate=rate, v_correction=1.0)

    monkeypatch.setattr(moments.Moments, "of_step", uncorrected)
    expected = torch_weights(weight, gradients, AdamW(), 1e-3)
    assert np.abs(our_weights(xp, weight, gradients, AdamW(), 1e-3) - expected).max() > 1e-3


@NAMESPACES
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_arithmetic_stays_float32(xp, settings):
    scalars = settings.scalars(xp, 1, 1e-3)
    gradient = xp.ones((3, 3), dtype=xp.float32)
    weight, slots = settings.update(xp, scalars, gradient, gradient, settings.init(xp, (3, 3)), decays=True)
    assert {array.dtype for array in (weight, *slots, *scalars)} == {gradient.dtype}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_an_update_gives_the_slots_that_are_named(settings):
    slots = settings.init(np, (3,))
    _, after = settings.update(np, settings.scalars(np, 1, 1e-3), *np.ones((2, 3), np.float32), slots, decays=False)
    assert len(settings.slots) == len(slots) == len(after)
    assert set(settings.silent) <= set(settings.slots)
    assert settings.slot_bytes == sum(slot.nbytes for slot in slots) / 3


def test_sgd_has_state_only_with_momentum():
    assert (Sgd().slots, Sgd().slot_bytes) == ((), 0)
    assert (Sgd(momentum=0.9).slots, Sgd(momentum=0.9, moments="bf16").slot_bytes) == (("momentum",), 2)
    assert (AdamW().slots, AdamW().slot_bytes, AdamW(moments="bf16").slot_bytes) == (("m", "v"), 8, 4)


@pytest.mark.parametrize("kind", get_args(AnyOptimizer))
def test_norms_and_biases_decay_only_when_asked(kind):
    assert kind(weight_decay=0.1).decays((4, 4))
    assert not kind(weight_decay=0.1).decays((4,))
    assert kind(weight_decay=0.1, decay_norms_and_biases=True).decays((4,))
    assert not kind(weight_decay=0.0).decays((4, 4))


def bfloat16_slots(xp, settings, gradients, rng):
    """Slots that every step stores in bfloat16, as float32."""
    slots = settings.init(xp, gradients[0].shape)
    for step, gradient in enumerate(gradients, start=1):
        scalars = settings.scalars(xp, step, 1e-3)
        _, slots = settings.update(xp, scalars, gradient, gradient, slots, decays=False)
        bits = rng.integers(0, 2**32, gradient.shape, np.uint32)
        slots = rounding.rounded(xp, slots, xp.array(bits))
    return [np.array(slot).astype(np.float64) for slot in slots]


def errors_of_slots(xp, settings):
    """Of each slot after 300 steps, the mean error and how far chance may take it, as shares of the slot.

    All entries have the same gradients, which become small, so that AdamW's v falls by a thousandth a step.
    """
    sizes = np.where(np.arange(300) < 50, 1.0, 0.03) * np.random.default_rng(0).normal(1.0, 0.5, 300)
    gradients = [xp.ones((20_000,), dtype=xp.float32) * float(size) for size in sizes]
    exact, weight = settings.init(np, (), np.float64), np.float64(0.0)
    for step, size in enumerate(np.float32(sizes).astype(float), start=1):
        _, exact = settings.update(np, settings.constants(step, 1e-3), weight, size, exact, decays=False)
    found = bfloat16_slots(xp, settings, gradients, np.random.default_rng(1))
    shares = [slot / true - 1 for slot, true in zip(found, exact, strict=True)]
    return [(abs(share.mean()), 4 * share.std() / np.sqrt(share.size)) for share in shares]


@NAMESPACES
@pytest.mark.parametrize("settings", [AdamW(), Sgd(momentum=0.99)], ids=str)
def test_slots_in_bfloat16_are_those_of_float32_on_average(xp, settings):
    for error, chance in errors_of_slots(xp, settings):
        assert error < chance < 2e-3


@NAMESPACES
def test_rounding_moments_to_the_nearest_would_freeze_v(xp, monkeypatch):
    monkeypatch.setattr(rounding, "stochastic", lambda xp, array, *_: xp.array(nearest_bfloat16(np.array(array))))
    _, (error, _) = errors_of_slots(xp, AdamW())
    assert error > 0.1


def nearest_bfloat16(array):
    return torch.tensor(array).bfloat16().float().numpy()


@NAMESPACES
def test_two_slots_are_rounded_apart(xp):
    third = xp.array(np.full(50_000, 1 + 2.0**-7 / 3, np.float32))
    bits = np.random.default_rng(0).integers(0, 2**32, 50_000, np.uint32)
    m, v = (np.array(slot) > 1 for slot in rounding.rounded(xp, (third, third), xp.array(bits)))
    assert m.mean() == pytest.approx(1 / 3, abs=0.01)
    assert v.mean() == pytest.approx(1 / 3, abs=0.01)
    assert abs(np.corrcoef(m, v)[0, 1]) < 0.02
