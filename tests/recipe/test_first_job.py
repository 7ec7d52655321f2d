"""What `mlxtune train` trains without a recipe, a model or data: the demo's settings, beneath the flags."""

import json

import pytest

from mlxtune.recipe import first_job
from mlxtune.recipe.recipe import as_tree, build, read
from tests.support.checkout import ROOT

DEMO = ROOT / "recipes" / "demo.yaml"


def built(overrides):
    return as_tree(build(first_job.settings(overrides), overrides))


def test_with_no_options_it_is_the_demo():
    assert first_job.settings({}) == read(DEMO)
    assert built({"model.name": "tiny"}) == as_tree(build(read(DEMO), {}))


@pytest.mark.parametrize("named", [{"model.name": "llama-3-8b"}, {"data.path": "rows.jsonl"}])
def test_another_model_or_other_data_have_the_defaults(named):
    assert built(named) == as_tree(build({}, named))


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.max_steps": 3},
        {"train.epochs": 2},
        {"strategy.name": "lora", "strategy.rank": 4},
        {"strategy.name": "full"},
        {"schedule.name": "constant"},
        {"schedule.name": "linear", "train.max_steps": 5, "schedule.warmup_steps": 2},
        {"backend.precision": "bf16", "train.eval_every": 7},
        {"train.clip_norm": None},
    ],
)
def test_every_flag_wins_and_takes_along_what_belongs_to_it(overrides):
    recipe = built(overrides)
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        assert recipe[section][name] == value
    assert recipe["schedule"]["learning_rate"] == 5e-3
    if overrides.get("train.max_steps"):
        assert recipe["schedule"]["warmup_steps"] < overrides["train.max_steps"]


@pytest.mark.slow
def test_the_first_thing_that_a_newcomer_sees_is_a_model_that_learns(mlxtune):
    found = mlxtune("train", "--max-steps", 15, "--backend", "numpy", "--out", "out", "--json")
    end = json.loads(found.stdout)
    assert (found.returncode, end["learned"]) == (0, True)
    assert end["best_eval_loss"] < end["start_loss"] / 2
