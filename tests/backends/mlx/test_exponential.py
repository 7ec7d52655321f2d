"""The exponential on a processor against NumPy's in float64."""

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.backends.mlx.head import exponential


@pytest.fixture(autouse=True)
def _on_cpu():
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(device)


def test_it_is_the_exponential_to_the_last_bits():
    x = -np.exp(np.random.default_rng(0).uniform(np.log(1e-8), np.log(87), 100_000)).astype(np.float32)
    found = np.array(exponential.exp(mx.array(x))).astype(np.float64)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 3e-7


@pytest.mark.parametrize("x", [-88.0, -1e3, -1e4, -3e38, -np.inf])
def test_what_is_smaller_than_any_float32_is_next_to_nothing(x):
    assert 0 <= exponential.exp(mx.array([x])).item() < 2e-38


def test_zero_gives_one_and_what_is_no_number_stays_none():
    assert exponential.exp(mx.array([0.0])).item() == 1.0
    assert np.isnan(exponential.exp(mx.array([np.nan])).item())


def test_a_polynomial_that_ends_a_term_earlier_would_be_noticed(monkeypatch):
    monkeypatch.setattr(exponential, "TAYLOR", exponential.TAYLOR[:-1])
    with pytest.raises(AssertionError):
        test_it_is_the_exponential_to_the_last_bits()
