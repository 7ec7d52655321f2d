"""The Python front door: five names, typed, imported when they are asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import mlxtune
from mlxtune import Recipe, evaluate, generate, load_run, train
from mlxtune.backends.base import BackendSettings, Sampling
from mlxtune.errors import BadModel, BadRun, BadSetting
from mlxtune.events import Step
from tests.support.backend import BACKEND
from tests.support.run import Keep

HERE = BackendSettings(name=BACKEND)


@pytest.fixture
def settings(tmp_path):
    sizes = {"train.max_steps": 3, "backend.name": BACKEND, "backend.precision": "fp32"}
    return {**sizes, "run.out": str(tmp_path / "run"), "strategy.last_n": 1}


def test_a_run_is_trained_loaded_evaluated_and_tried(settings, tmp_path):
    kept = Keep()
    end = train(settings, [kept])
    run = load_run(tmp_path / "run")
    assert isinstance(run.recipe, Recipe)
    assert (run.recipe.train.max_steps, run.recipe.strategy.name) == (3, "last-n")
    assert (run.end, run.adapter) == (end, tmp_path / "run" / "adapter")
    assert [event for event in run.events() if isinstance(event, Step)] == [e for e in kept if isinstance(e, Step)]
    before, after = (evaluate(adapter=adapter, backend=HERE) for adapter in (None, run.adapter))
    assert after.loss < before.loss
    said = generate("Once", adapter=run.adapter, sampling=Sampling(8, 0.0, 1.0, 0), backend=HERE)
    assert isinstance(said, str)
    assert said


@pytest.mark.slow
def test_a_moved_run_knows_its_adapter(settings, tmp_path):
    train(settings)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert load_run(moved).adapter == moved / "adapter"


@pytest.mark.slow
def test_a_recipe_is_trained_as_its_settings_are(settings, tmp_path):
    from mlxtune.recipe.recipe import build

    first = train(settings)
    second = train(build({}, {**settings, "run.out": str(tmp_path / "other")}))
    assert (first.final_loss, first.steps) == (second.final_loss, second.steps)


def test_what_is_wrong_is_raised_before_anything_is_written(settings, tmp_path):
    with pytest.raises(BadSetting, match=r"train\.max_stepz"):
        train({**settings, "train.max_stepz": 3})
    with pytest.raises(BadModel):
        train({**settings, "model.name": str(tmp_path)})
    with pytest.raises(BadRun):
        load_run(tmp_path)
    assert not (tmp_path / "run").exists()


def test_importing_the_package_imports_nothing_heavy():
    code = "import mlxtune, sys; print(*(n for n in ('numpy', 'mlx', 'pydantic', 'rich', 'typer') if n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_every_name_of_the_front_door_is_there_typed_and_listed():
    stub = (Path(mlxtune.__file__).parent / "__init__.pyi").read_text()
    for name in mlxtune.__all__:
        assert callable(getattr(mlxtune, name))
        assert f"import {name} as {name}" in stub
        assert name in dir(mlxtune)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mlxtune.nothing  # noqa: B018
