"""Every kind of adapter: as data, beside a linear module on NumPy, and in the folder that it is saved in."""

import ast
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

import mlxtune
from mlxtune.adapters import fit, folder
from mlxtune.adapters.adapter import FULL, KINDS, NAMES, make, parameters
from mlxtune.adapters.folder import CONFIG, WEIGHTS, Saved, Written
from mlxtune.adapters.kind import Settings
from mlxtune.backends.numpy import adapter as numpy_adapter
from mlxtune.backends.numpy.arrays import Workspace
from mlxtune.backends.numpy.kernels import lora
from mlxtune.backends.numpy.kernels.linear import Linear, linear, weight_gradients
from mlxtune.errors import BadModel
from mlxtune.strategies.choose import select
from mlxtune.strategies.example import TWO_LAYERS
from mlxtune.strategies.lora import Lora

SETTINGS, N_IN, N_OUT, N_TOKENS = Settings(rank=3, scale=1.5, dropout=0.3), 5, 4, 7
MODULE = "layers.0.q"
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


class Beside(NamedTuple):
    """An adapter on one module. starts: what its arrays start from."""

    adapter: Any
    weight: np.ndarray
    starts: list[np.ndarray]
    x: np.ndarray


def made(kind: str) -> Beside:
    random = np.random.default_rng(0)
    adapter = make(kind, MODULE, (N_IN, N_OUT), SETTINGS)
    weight = random.standard_normal((N_OUT, N_IN), np.float32)
    source = numpy_adapter._Source(random, weight)
    starts = [np.float32(array.start.values(source, array.shape)) for array in adapter.arrays]
    return Beside(adapter, weight, starts, random.standard_normal((N_TOKENS, N_IN), np.float32))


def later(found: Beside) -> list[np.ndarray]:
    """The arrays after some training."""
    random = np.random.default_rng(1)
    return [array + random.standard_normal(array.shape, np.float32) for array in found.starts]


def module_of(found: Beside, arrays: list[np.ndarray], gradients: list[np.ndarray] | None = None) -> Linear:
    seat = lora.Seat(slice(0, N_OUT), found.weight, number=0)
    beside = lora.beside(found.adapter, seat, arrays, gradients or [np.empty_like(array) for array in arrays])
    return Linear(found.weight, None, None, None, (beside,))


def output(found: Beside, arrays: list[np.ndarray]) -> np.ndarray:
    return linear(found.x, module_of(found, arrays), np.empty((N_TOKENS, N_OUT), np.float32), None, Workspace())


def test_every_kind_is_in_the_tables_of_its_name_and_of_its_arithmetic():
    assert tuple(KINDS) == NAMES
    assert lora.KINDS.keys() == KINDS.keys()
    assert FULL not in KINDS


def test_the_arrays_of_lora_are_named_in_one_file_of_the_package():
    package = Path(mlxtune.__file__).parent
    naming = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in ("lora_a", "lora_b")
    }
    assert naming == {"adapters/lora.py"}


@EVERY_KIND
def test_a_kind_has_its_arrays_by_their_names_in_order(kind):
    assert tuple(array.name for array in made(kind).adapter.arrays) == KINDS[kind].NAMES


@EVERY_KIND
def test_training_starts_at_the_model(kind):
    found = made(kind)
    delta = KINDS[kind].delta(found.weight, found.starts, SETTINGS)
    np.testing.assert_allclose(delta, np.zeros_like(found.weight), atol=1e-6)
    np.testing.assert_allclose(output(found, found.starts), found.x @ found.weight.T, rtol=1e-5, atol=1e-5)


@EVERY_KIND
def test_what_is_computed_beside_a_module_is_what_the_delta_of_its_weight_gives(kind):
    found = made(kind)
    arrays = later(found)
    delta = KINDS[kind].delta(found.weight, arrays, SETTINGS)
    assert np.abs(delta).max() > 0.1
    np.testing.assert_allclose(output(found, arrays), found.x @ (found.weight + delta).T, rtol=1e-5, atol=1e-4)


@EVERY_KIND
def test_an_array_waits_where_its_first_gradient_is_zero(kind):
    found = made(kind)
    gradient = np.random.default_rng(2).standard_normal((N_TOKENS, N_OUT), np.float32)
    gradients = [np.empty_like(array) for array in found.starts]
    module = module_of(found, found.starts, gradients)
    weight_gradients(gradient, found.x, module, None, Workspace())
    assert [not of_array.any() for of_array in gradients] == [array.waits for array in found.adapter.arrays]


def save(path: Path, kind: str, without: str = "") -> Path:
    """A folder with an adapter on one module."""
    selection = select(Lora(name=kind, rank=2, scale=1.5, last_n=1), TWO_LAYERS)
    tensors = {
        name: np.zeros(array.shape, np.float32)
        for name, array in parameters(selection.adapters).items()
        if name.rpartition(".")[2] != without
    }
    path.mkdir()
    save_file(tensors, path / WEIGHTS)
    document = Written(selection.adapters, TWO_LAYERS.layers, selection.first_layer).document({})
    (path / CONFIG).write_text(json.dumps(document))
    return path


@EVERY_KIND
def test_a_saved_adapter_is_found_as_it_was_and_fits_its_model(kind, tmp_path):
    found = folder.find(save(tmp_path / "adapter", kind))
    assert found == Saved(tmp_path / "adapter", kind, Settings(2, 1.5, 0.0))
    shapes = {name: parameter.shape for name, parameter in TWO_LAYERS.parameters.items()}
    fit.check(found, shapes, TWO_LAYERS.linears)
    with pytest.raises(BadModel, match="an adapter of this model"):
        fit.check(found, shapes, {name: (n_in, 9) for name, (n_in, _) in TWO_LAYERS.linears.items()})


@pytest.mark.parametrize(("kind", "lost"), [(kind, name) for kind in KINDS for name in KINDS[kind].NAMES])
def test_an_adapter_without_one_of_its_arrays_is_refused(kind, lost, tmp_path):
    found = folder.find(save(tmp_path / "adapter", kind, without=lost))
    shapes = {name: parameter.shape for name, parameter in TWO_LAYERS.parameters.items()}
    with pytest.raises(BadModel, match=f"without its {lost}"):
        fit.check(found, shapes, TWO_LAYERS.linears)


@EVERY_KIND
def test_a_config_is_written_as_mlx_lm_reads_it(kind, tmp_path):
    document = json.loads((save(tmp_path / "adapter", kind) / CONFIG).read_text())
    assert [*document] == ["fine_tune_type", "lora_parameters", "num_layers", "mlxtune"]
    assert (document["fine_tune_type"], document["num_layers"]) == (kind, 1)
    assert document["lora_parameters"] == {"rank": 2, "scale": 1.5, "dropout": 0.0, "keys": ["q"]}


def test_a_kind_that_only_mlx_lm_knows_is_found_and_left_to_the_backend(tmp_path):
    path = save(tmp_path / "adapter", "lora")
    document = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps({**document, "fine_tune_type": "another"}))
    found = folder.find(path)
    assert (found.kind, found.settings) == ("another", None)
    fit.check(found, {}, {})
