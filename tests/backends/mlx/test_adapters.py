"""Every kind of adapter around a linear module of MLX, and what modules say that they can do."""

import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlxtune.backends.mlx
from mlxtune.adapters.adapter import KINDS, make
from mlxtune.adapters.kind import Settings
from mlxtune.backends.mlx.model import linear, lora
from mlxtune.backends.mlx.model.lora import AdapterLinear

SETTINGS = Settings(rank=3, scale=1.5, dropout=0.3)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


def base():
    """The same module each time."""
    module = nn.Linear(8, 6)
    module.weight = mx.random.normal((6, 8), key=mx.random.key(9))
    return module


def around(kind, *, seed=0):
    """An adapter on a module of 8 inputs and 6 outputs, which is read and does not train."""
    adapter = make(kind, "module", (8, 6), SETTINGS)
    module = AdapterLinear(base(), adapter, 0, mx.random.key(seed))
    return adapter, module.eval()


def test_every_kind_has_its_arithmetic():
    assert lora.KINDS.keys() == KINDS.keys()


@EVERY_KIND
def test_an_adapter_has_its_arrays_by_their_names_and_shapes_in_float32(kind):
    adapter, module = around(kind)
    for array in adapter.arrays:
        assert (module[array.name].shape, module[array.name].dtype) == (array.shape, mx.float32)


@EVERY_KIND
def test_the_output_is_what_the_delta_of_the_weight_gives(kind):
    adapter, module = around(kind)
    x = mx.random.normal((5, 8), key=mx.random.key(1))
    np.testing.assert_allclose(module(x), module.linear(x), rtol=1e-5, atol=1e-5)  # training starts at the model
    for number, array in enumerate(adapter.arrays):
        module[array.name] = module[array.name] + mx.random.normal(array.shape, key=mx.random.key(number))
    delta = KINDS[kind].delta(module.linear.weight, [module[array.name] for array in adapter.arrays], SETTINGS)
    expected = x @ (module.linear.weight + delta).T + module.linear.bias
    assert np.abs(np.array(expected - module.linear(x))).max() > 0.1
    np.testing.assert_allclose(module(x), expected, rtol=1e-5, atol=1e-4)


@EVERY_KIND
def test_another_key_draws_other_values(kind):
    (adapter, one), (_, same), (_, other) = around(kind), around(kind), around(kind, seed=1)
    drawn = [array.name for array in adapter.arrays if np.array(one[array.name]).any()]
    assert all(mx.array_equal(one[name], same[name]) for name in drawn)
    assert any(not mx.array_equal(one[name], other[name]) for name in drawn)


class Fused(nn.Linear):
    """Has its product cut into parts, as some architectures do."""

    def __call__(self, x):
        return mx.split(super().__call__(x), 2, axis=-1)


def test_a_linear_module_says_its_widths_and_whether_an_adapter_can_sit_on_it():
    assert linear.describe(nn.Linear(8, 6)) == (8, 6, True)
    assert linear.describe(Fused(8, 6)) == (8, 6, False)
    assert [linear.describe(module) for module in (nn.Embedding(8, 6), nn.RMSNorm(8))] == [None, None]
    assert [linear.table_rows(module) for module in (nn.Embedding(8, 6), nn.Linear(8, 6))] == [8, None]


class Bent(nn.Linear):
    """Changes its product."""

    def __call__(self, x):
        return mx.tanh(super().__call__(x))


def test_a_module_says_which_method_is_its_product_and_nothing_else():
    modules = (nn.Linear(8, 6), nn.Embedding(8, 6), Bent(8, 6), nn.RMSNorm(8))
    assert [linear.product(module) for module in modules] == ["__call__", "as_linear", None, None]


def test_no_other_file_of_the_backend_compares_the_type_of_a_linear_module():
    folder = Path(mlxtune.backends.mlx.__file__).parent
    compares = re.compile(r"(isinstance|issubclass|type)\(.*nn\.(Linear|Embedding|Quantized)")
    found = {path.name for path in folder.rglob("*.py") if compares.search(path.read_text(encoding="utf-8"))}
    assert found == {"linear.py"}


def test_a_module_of_packed_numbers_says_so():
    plain = nn.Linear(64, 64)
    assert [linear.is_quantised(module) for module in (plain, nn.QuantizedLinear.from_linear(plain))] == [False, True]
