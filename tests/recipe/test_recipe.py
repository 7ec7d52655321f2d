"""Recipes: strict, told all at once, and every setting has a flag or a reason not to."""

import re

import pytest
import yaml

from mlxtune.adapters.adapter import NAMES
from mlxtune.cli.options import FLAGS
from mlxtune.errors import BadSetting, Faults
from mlxtune.recipe.recipe import as_tree, as_yaml, build, every_key, parse_changes, read
from tests.support.checkout import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
# Settings with no flag of their own: finer than a command line wants, and there is --recipe and `run --set`.
WITHOUT_FLAG = {
    "data.now",
    "data.valid_share",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.epsilon",
    "optimizer.decay_norms_and_biases",
    "optimizer.low_precision",
    "sample.max_tokens",
    "sample.temperature",
}


def file(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_resolves(path):
    assert build(read(path), {}, str(path)).model is not None


def test_recipes_are_shipped():
    assert {"demo.yaml", "dolphin-8b-last-4.yaml", "llama-3.2-1b-last-4.yaml", "qwen2.5-7b-last-4.yaml"} <= {
        path.name for path in RECIPES
    }


def test_every_setting_has_a_flag_or_is_listed_as_without():
    assert {flag.key for flag in FLAGS} | WITHOUT_FLAG == set(every_key())


def test_the_help_names_every_optimizer_and_the_default():
    (said,) = (flag.help for flag in FLAGS if flag.key == "optimizer.name")
    assert {*every_key()["optimizer.name"]} == {*re.findall(r"\w+", said)} - {"or", "Default"}
    assert said.endswith(f"Default: {build({}, {}).optimizer.name}.")


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    tree = read(file(tmp_path, "train: {batch_size: 2, seed: 5}\n"))
    recipe = build(tree, {"train.seed": 9})
    assert (recipe.train.batch_size, recipe.train.seed, recipe.train.grad_accum) == (2, 9, 1)


def test_a_resolved_recipe_reads_back_to_itself(tmp_path):
    recipe = build({"strategy": {"name": "lora", "target": ["q_proj"]}}, {"schedule.name": "cosine"})
    assert build(read(file(tmp_path, as_yaml(recipe))), {}) == recipe
    assert yaml.safe_load(as_yaml(recipe)) == as_tree(recipe)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("train: {max_step: 5}", "train.max_steps"),
        ("training: {max_steps: 5}", "train.max_steps"),
        ("train: {learning_rate: 1.0e-4}", "schedule.learning_rate"),
        ("modle: {name: x}", "model.name"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(tmp_path, text, nearest):
    path = file(tmp_path, text)
    with pytest.raises(BadSetting, match=re.escape(f"The nearest is {nearest}")) as caught:
        build(read(path), {}, str(path))
    assert str(path) in str(caught.value)


def test_a_setting_of_another_strategy_is_refused_and_says_whose_it_is():
    with pytest.raises(BadSetting, match=rf"strategy\.rank is a setting of {' and '.join(sorted(NAMES))}"):
        build({}, {"strategy.rank": 4})
    with pytest.raises(BadSetting, match=r"optimizer\.momentum is a setting of sgd"):
        build({"optimizer": {"momentum": 0.9}}, {})
    with pytest.raises(BadSetting, match=r"optimizer\.beta1 is a setting of adam and adamw"):
        build({"optimizer": {"name": "sgd", "beta1": 0.9}}, {})
    with pytest.raises(BadSetting, match="min_learning_rate is a setting of cosine and linear"):
        build({}, {"schedule.min_learning_rate": 1e-6})


def test_all_faults_are_told_at_once():
    with pytest.raises(Faults) as caught:
        build({"train": {"batch_size": 0, "seed": "one"}, "schedule": {"learning_rate": -1.0}}, {})
    told = str(caught.value)
    assert all(key in told for key in ("train.batch_size", "train.seed", "schedule.learning_rate"))


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.max_steps": 5, "train.epochs": 2},
        {"strategy.name": "lora", "strategy.scale": 2.0, "strategy.alpha": 16.0},
        {"backend.precision": "fp32", "optimizer.low_precision": "master"},
        {"strategy.last_n": 0},
        {"strategy.last_n": "most"},
        {"strategy.name": "another"},
        {"train.batch_size": 2.5},
        {"train.batch_size": True},
        {"backend.precision": "int8"},
        {"optimizer.beta2": 1.0},
        {"optimizer.name": "muon"},
        {"optimizer.name": "sgd", "optimizer.nesterov": True},
        {"optimizer.name": "sgd", "optimizer.moments": "bf16"},
        {"optimizer.name": "sgd", "optimizer.momentum": 1.0},
        {"schedule.learning_rate": float("nan")},
    ],
    ids=str,
)
def test_a_setting_that_cannot_have_its_effect_is_refused(overrides):
    with pytest.raises((BadSetting, Faults)):
        build({}, overrides)


def test_a_rate_in_exponents_is_a_number(tmp_path):
    assert build(read(file(tmp_path, "schedule: {learning_rate: 1e-5}")), {}).schedule.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train: {seed: 1}\ntrain: {seed: 2}\n", r"recipe.yaml:2: .*`train` a second time"),
        ("train:\n  - a\n", "expected a section of keys"),
        ("- train\n", "expected sections of keys"),
        ("train: {seed: [\n", r"recipe.yaml:2: expected YAML"),
    ],
)
def test_a_file_that_is_no_recipe_says_where(tmp_path, text, said):
    with pytest.raises(BadSetting, match=said):
        read(file(tmp_path, text))


def test_changes_are_read_as_yaml():
    changes = parse_changes(["train.max_steps=10", "strategy.last_n=all", "train.clip_norm=null"])
    assert changes == {"train.max_steps": 10, "strategy.last_n": "all", "train.clip_norm": None}
    with pytest.raises(BadSetting, match=r"section\.key=value"):
        parse_changes(["max_steps"])
