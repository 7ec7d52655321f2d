"""Whole runs on NumPy: which backend is chosen, what a run says, how it goes on, what it learns."""

import importlib.util
import json

import pytest

from mlxtune import inference as try_it
from mlxtune import speech
from mlxtune.backends import choose
from mlxtune.backends.base import BackendSettings, Sampling
from mlxtune.data.settings import DataSettings
from mlxtune.errors import Missing
from mlxtune.recipe.recipe import build
from mlxtune.run import session as run
from mlxtune.storage import checkpoint
from tests.support.assets import assets_folder
from tests.support.slow import all_but

NUMPY = BackendSettings(name="numpy")
STRATEGIES = {"last-n": {"name": "last-n", "last_n": 1}, "lora": {"name": "lora"}, "full": {"name": "full"}}


@pytest.fixture
def without_mlx(monkeypatch):
    """As on a machine where MLX is not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith("mlx") else find(name))


def recipe(out, strategy=None, **changes):
    settings = {
        "train.max_steps": 4,
        "checkpoint.save_every": 2,
        "checkpoint.keep": 4,
        "backend.name": "numpy",
        "run.out": str(out),
    }
    return build(
        {"strategy": strategy or {"last_n": 1}},
        settings | {key.replace("__", "."): value for key, value in changes.items()},
    )


def events(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.mark.usefixtures("without_mlx")
def test_auto_is_numpy_where_mlx_is_absent_and_the_panel_says_so(tmp_path):
    assert run.start(recipe(tmp_path, backend__name="auto")).status == "done"
    (start,) = events(tmp_path, "start")
    assert start["backend"] == "numpy"
    assert choose.NO_MLX in start["notes"]


@pytest.mark.usefixtures("without_mlx")
def test_asking_for_mlx_where_it_is_absent_says_how_to_install_it_and_what_there_is(tmp_path):
    with pytest.raises(Missing, match=r"(?s)pip install.*--backend numpy|MLX runs on.*--backend numpy"):
        run.start(recipe(tmp_path / "run", backend__name="mlx"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", all_but(["last-n"], STRATEGIES))
@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_bytes_of_one_that_never_stopped(strategy, precision, tmp_path):
    changes = {"backend__precision": precision, "train__grad_accum": 2, "schedule__learning_rate": 1e-3}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, steps in ((whole, 4), (parts, 2), (parts, 4)):
        run.start(recipe(folder, strategy=strategy, train__max_steps=steps, **changes))
    for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER):
        expected, found = (checkpoint.folders(folder)[-1] / name for folder in (whole, parts))
        assert found.read_bytes() == expected.read_bytes()


@pytest.mark.slow
def test_the_adapter_of_a_run_is_evaluated_and_speaks(tmp_path):
    end = run.start(recipe(tmp_path / "run", backend__precision="fp32", train__max_steps=6))
    adapter = tmp_path / "run" / "adapter"
    settings = BackendSettings(name="numpy", precision="fp32")
    score = try_it.score(None, adapter, DataSettings(), settings)
    assert score.loss > 0
    assert end.best_eval_loss is not None
    loaded = try_it.load(None, adapter, settings)
    assert "".join(speech.complete(loaded, "Tell me", Sampling(8, 0.0, 1.0, 0)))


@pytest.mark.slow
def test_two_hundred_steps_teach_the_stories_model_the_queries(tmp_path):
    """mlx-lm's full training of the same layers reaches 2.015."""
    assets = assets_folder()
    changes = {
        "model__name": str(assets / "models" / "stories260K"),
        "data__path": str(assets / "data" / "wikisql"),
        "strategy__last_n": 5,
        "train__max_steps": 200,
        "train__batch_size": 4,
        "schedule__learning_rate": 1e-3,
        "backend__precision": "fp32",
        "checkpoint__save_every": 100,
    }
    end = run.start(recipe(tmp_path, **changes))
    assert end.best_eval_loss <= 2.10


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "mlx"])
def test_moments_in_bfloat16_end_five_hundred_steps_within_half_a_percent_of_float32(tmp_path, backend):
    if backend == "mlx":
        pytest.importorskip("mlx.core")
    found = {}
    for moments in ("fp32", "bf16"):
        out = tmp_path / moments
        changes = {"optimizer__moments": moments, "backend__name": backend, "backend__precision": "fp32"}
        run.start(recipe(out, train__max_steps=500, schedule__learning_rate=1e-3, **changes))
        last = [event["loss"] for event in events(out, "step")[-50:]]
        found[moments] = (events(out, "eval")[-1]["loss"], sum(last) / len(last))
    assert found["bf16"] == pytest.approx(found["fp32"], rel=5e-3)
    assert found["bf16"] != found["fp32"]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [("mlx", "numpy"), ("numpy", "mlx")])
def test_a_run_begun_on_one_backend_resumes_on_the_other(tmp_path, first, second):
    pytest.importorskip("mlx.core")
    settings = {"backend__precision": "fp32", "schedule__learning_rate": 1e-3, "train__max_steps": 3}
    whole = run.start(recipe(tmp_path / "whole", **settings, backend__name=second))
    run.start(recipe(tmp_path / "mixed", **{**settings, "train__max_steps": 2}, backend__name=first))
    mixed = run.start(recipe(tmp_path / "mixed", **settings, backend__name=second))
    assert mixed.final_loss == pytest.approx(whole.final_loss, rel=1e-4)
    assert mixed.best_eval_loss == pytest.approx(whole.best_eval_loss, rel=1e-4)
