"""An optimizer's update as one kernel, as on a GPU. On a processor MLX makes kernels with the system's compiler."""

import shutil
from functools import partial

import mlx.core as mx
import pytest

from mlxtune.backends.mlx.update import parameters
from mlxtune.optim.adam import Adam
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.sgd import Sgd
from mlxtune.strategies.full import Full
from tests.support.mlx import make_batch, make_learner, write_model
from tests.support.slow import all_but

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")


KINDS = {"adamw": AdamW, "adam": Adam, "sgd": partial(Sgd, momentum=0.9, nesterov=True)}
SETTINGS = {"default": {}, "moments": {"moments": "bf16"}, "master": {"low_precision": "master"}}


@pytest.fixture
def compiles(monkeypatch):
    """Says whether updates are compiled from here on."""

    def choose(yes: bool) -> None:
        monkeypatch.setattr(parameters, "is_processor", lambda: not yes)
        parameters._update.cache_clear()

    yield choose
    parameters._update.cache_clear()


@pytest.mark.parametrize("kind", all_but(["adamw"], KINDS))
@pytest.mark.parametrize("settings", all_but(["default"], SETTINGS))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_update_is_the_update(tmp_path, compiles, precision, settings, kind):
    write_model(tmp_path)
    losses = {}
    for compiled in (True, False):
        compiles(compiled)
        learner = make_learner(tmp_path, Full(), precision, optimizer=kind(weight_decay=0.1, **settings))
        losses[compiled] = [learner.step([make_batch(seed)], 1e-3).loss.loss_sum for seed in range(3)]
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)


@pytest.mark.parametrize("compiled", [True, False])
def test_it_is_one_operation_of_the_graph(tmp_path, compiles, compiled):
    compiles(compiled)
    array, optimizer = mx.ones((4, 3)), AdamW()
    weight, _ = parameters._update(optimizer, True)(optimizer.scalars(mx, 1, 1e-3), array, array, (array, array))
    mx.export_to_dot(str(tmp_path / "graph"), weight)
    assert ("Compiled" in (tmp_path / "graph").read_text()) == compiled
