"""Whole runs with each optimizer: they learn, are planned, and go on to the same bytes, on every backend."""

from pathlib import Path

import pytest

from mlxtune.errors import BadRun
from mlxtune.events import Start
from mlxtune.memory.parts import Parts
from mlxtune.run import session as run
from mlxtune.run.prepare import prepare
from mlxtune.storage import checkpoint
from mlxtune.storage.checkpoint import read_header
from tests.support.cli import BACKENDS
from tests.support.run import Ask, Keep, last_bytes, recipes, write_rows
from tests.support.slow import all_but

SGD = {"optimizer__name": "sgd", "schedule__learning_rate": 0.1}
OPTIMIZERS = {
    "adamw": ({}, ("m", "v")),
    "adam": ({"optimizer__name": "adam", "optimizer__weight_decay": 0.1}, ("m", "v")),
    "sgd": (SGD, ()),
    "sgd, bf16": ({**SGD, "backend__precision": "bf16"}, ()),
    "sgd, momentum": ({**SGD, "optimizer__momentum": 0.9}, ("momentum",)),
    "sgd, nesterov in 16 bits": (
        {**SGD, "optimizer__momentum": 0.9, "optimizer__nesterov": True, "optimizer__moments": "bf16"},
        ("momentum",),
    ),
}
EVERY_OPTIMIZER = pytest.mark.parametrize(("changes", "slots"), all_but(["adamw", "sgd, momentum"], OPTIMIZERS))
EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture
def recipe(tmp_path):
    return recipes(write_rows(tmp_path))


@EVERY_BACKEND
@EVERY_OPTIMIZER
@pytest.mark.few(1)
def test_an_interrupted_run_resumes_to_the_bytes_of_the_unbroken_one(recipe, backend, changes, slots):
    settings = {"backend__name": backend, **changes}
    whole = run.start(recipe("whole", **settings))
    run.start(recipe("broken", **settings), [Ask(3)])
    broken = run.start(recipe("broken", **settings))
    assert last_bytes(whole.run) == last_bytes(broken.run)
    assert whole.best_eval_loss < whole.start_loss
    saved = checkpoint.folders(Path(whole.run))[-1]
    names = read_header(saved / checkpoint.OPTIMIZER)
    assert {*names} == {f"{name}.{slot}" for name in read_header(saved / checkpoint.WEIGHTS) for slot in slots}


@pytest.mark.skipif(len(BACKENDS) < 2, reason="there is one backend")
@pytest.mark.parametrize("name", all_but(["adamw"], OPTIMIZERS.keys()))
@pytest.mark.slow
def test_a_run_goes_on_on_the_other_backend(recipe, name):
    changes, _ = OPTIMIZERS[name]
    for first, second in (("numpy", "mlx"), ("mlx", "numpy")):
        run.start(recipe(first, backend__name=first, **changes), [Ask(3)])
        ended = run.start(recipe(first, backend__name=second, **changes))
        unbroken = run.start(recipe(f"whole {first}", backend__name=first, **changes))
        assert (ended.status, ended.steps) == ("done", 6)
        tolerance = 0.05 if "backend__precision" in changes else 1e-3  # 16 bits are rounded by other noise
        assert ended.final_loss == pytest.approx(unbroken.final_loss, rel=tolerance)


@EVERY_BACKEND
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.few(2)
def test_the_optimizers_bytes_are_planned_and_said_to_the_byte(recipe, backend, name):
    changes, _ = OPTIMIZERS[name]
    asked = recipe(backend__name=backend, **changes)
    planned: Parts = prepare(asked).plan.resident
    keep = Keep()
    end = run.start(asked, [keep])
    saved = checkpoint.folders(Path(end.run))[-1]
    n_bytes = sum(info.bytes for info in read_header(saved / checkpoint.OPTIMIZER).values())
    (start,) = (event for event in keep if isinstance(event, Start))
    assert planned.optimizer == start.optimizer_bytes == n_bytes


def test_another_optimizer_is_a_change_that_a_run_does_not_go_on_with(recipe):
    run.start(recipe(), [Ask(2)])
    with pytest.raises(BadRun, match=r"optimizer\.name: the run has 'adamw', now 'sgd'"):
        run.start(recipe(optimizer__name="sgd"))
