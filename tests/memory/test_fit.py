"""What `--fit` gives up, and in which order; then a real run that is made to fit half of what it took."""

import json
import re
import shlex

import numpy as np
import pytest

from mlxtune.errors import BadSetting
from mlxtune.memory.fit import SAFE, as_flags, search, shorter, single_changes
from mlxtune.planning.predict import Planner
from mlxtune.recipe.recipe import as_tree, build
from tests.support.cli import BACKENDS, write
from tests.support.memory import outline_folder, text_of, whole_folder, words

LAYERS = 8
HALVES = shorter(1024)
FREE = {"train.batch_size", "train.grad_accum", "backend.grad_checkpoint", "backend.prefix_cache"}
RANK = {"optimizer.moments": 1, "strategy.last_n": 2, "data.max_seq_length": 3}  # what costs the result more


def tree(**changes):
    settings = {"train.batch_size": 4, "train.grad_accum": 3, "data.max_seq_length": 1024, "strategy.last_n": 4}
    return as_tree(build({}, settings | {key.replace("__", "."): value for key, value in changes.items()}))


def peak(changes):
    """An invented machine: 1,000 for weights, moments by layer, activations by rows, layers and length."""
    layers, rows = changes.get("strategy.last_n", 4), changes.get("train.batch_size", 4)
    length = changes.get("data.max_seq_length", 1024)
    kept = 0.25 if changes.get("backend.grad_checkpoint") else 1
    weights = 0 if changes.get("backend.prefix_cache") == "on" else 1000
    moments = 50 if changes.get("optimizer.moments") == "bf16" else 100
    return round(weights + layers * (moments + kept * rows * length / 4))


LIMITS = [7000, 5000, 4000, 3000, 2000, 1500, 1000, 700, 500, 400, 300, 200, 150, 110]


def cost(changes):
    return max((RANK[key] for key in changes if key in RANK), default=0)


@pytest.mark.parametrize("limit", LIMITS)
def test_what_is_found_fits(limit):
    assert peak(search(peak, tree(), LAYERS, limit, HALVES)) <= SAFE * limit


def test_what_fits_is_left_as_it_is():
    assert search(peak, tree(), LAYERS, 10 * peak({}), HALVES) == {}
    assert search(peak, tree(), LAYERS, round(peak({}) / SAFE) + 1, HALVES) == {}


def test_less_memory_never_asks_for_what_costs_the_result_less():
    costs = [cost(search(peak, tree(), LAYERS, limit, HALVES)) for limit in LIMITS]
    assert costs == sorted(costs)
    assert set(costs) == {0, 1, 2, 3}  # else the limits try nothing


@pytest.mark.parametrize("limit", LIMITS)
def test_nothing_is_given_up_that_something_cheaper_would_have_saved(limit):
    found = search(peak, tree(), LAYERS, limit, HALVES)
    for key in set(found) & set(RANK):
        without = [peak({**free, **{k: v for k, v in found.items() if k not in (key, *FREE)}}) for free in every_free()]
        assert min(without) > SAFE * limit, f"{key} was not needed"


def every_free():
    for rows in (4, 3, 2, 1):
        for checkpoint in (False, True):
            for keep in ({}, {"backend.prefix_cache": "on"}):
                yield {"train.batch_size": rows, "backend.grad_checkpoint": checkpoint, **keep}


@pytest.mark.parametrize(("batch_size", "grad_accum"), [(4, 3), (5, 1), (6, 1), (1, 1)])
@pytest.mark.parametrize("limit", [4000, 2000, 700, 300])
def test_a_step_sees_as_many_rows_as_before(limit, batch_size, grad_accum):
    recipe = tree(train__batch_size=batch_size, train__grad_accum=grad_accum)
    found = search(peak, recipe, LAYERS, limit, HALVES)
    rows = found.get("train.batch_size", batch_size) * found.get("train.grad_accum", grad_accum)
    assert rows == batch_size * grad_accum
    for change in single_changes(recipe, LAYERS):
        rows = change.get("train.batch_size", batch_size) * change.get("train.grad_accum", grad_accum)
        assert rows == batch_size * grad_accum


def test_of_two_that_cost_alike_the_one_without_recomputing_is_taken():
    found = search(peak, tree(), LAYERS, 3600, HALVES)
    assert "train.batch_size" in found
    assert "backend.grad_checkpoint" not in found


def test_what_contradicts_the_recipe_is_not_chosen():
    def without_checkpoints(changes):
        return None if changes.get("backend.grad_checkpoint") else peak(changes)

    for limit in LIMITS[:-3]:
        assert "backend.grad_checkpoint" not in search(without_checkpoints, tree(), LAYERS, limit, HALVES)


def test_where_nothing_fits_the_smallest_that_would_is_said():
    asked = []

    def watched(changes):
        asked.append(peak(changes))
        return asked[-1] * 10**6

    with pytest.raises(BadSetting) as refused:
        search(watched, tree(), LAYERS, 10**6, HALVES)
    assert f"{min(asked)}.0 MB at least" in str(refused.value)
    assert "--batch-size 1 --grad-accum 12" in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("options", [("--strategy", "lora"), ("--strategy", "full"), ("--backend", "numpy"), ()])
def test_the_flags_given_back_fit(tmp_path, mlxtune, options):
    options = ("--model", outline_folder(tmp_path / "model"), "--max-seq-length", 512, *options)
    before = json.loads(mlxtune("memory", *options, "--json").stdout)["predicted_peak_bytes"]
    limit = int(0.4 * before)
    fitted = json.loads(mlxtune("memory", *options, "--fit", limit, "--json").stdout)
    assert fitted["limit_bytes"] == limit
    assert fitted["fits"]
    flags = shlex.split(as_flags(fitted["changes"]))
    said = mlxtune("memory", *options, "--fit", limit).stdout
    assert as_flags(fitted["changes"]) in said
    after = json.loads(mlxtune("memory", *options, *flags, "--json").stdout)
    assert after["predicted_peak_bytes"] == fitted["predicted_peak_bytes"] <= limit


def test_a_fit_alone_is_of_what_is_free_here(tmp_path, mlxtune):
    found = mlxtune("memory", "--model", outline_folder(tmp_path / "model"), "--fit", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["changes"] == {}


@pytest.mark.slow
def test_what_nothing_fits_is_refused_before_anything_is_written(tmp_path, mlxtune):
    found = mlxtune("train", "--fit", "300kB", "--out", "run")
    assert found.returncode == 2
    assert "expected settings that fit 300.0 kB" in found.stderr
    assert not (tmp_path / "run").exists()


def test_bytes_that_are_none_are_refused(mlxtune):
    assert mlxtune("memory", "--fit=plenty").returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_is_made_to_fit_half_of_what_it_took(tmp_path, mlxtune, backend):
    model, rows = whole_folder(tmp_path / "model"), text_of(tmp_path / "rows.txt", 9000)
    common = ("--model", model, "--data", rows, "--max-seq-length", 256, "--backend", backend, "--precision", "fp32")
    options = ("train", *common, "--last-n", 2, "--max-steps", 3, "--json")
    default = json.loads(mlxtune(*options, "--out", "default").stdout)["peak_memory_bytes"]
    limit = default // 2
    found = mlxtune(*options, "--out", "fitted", "--fit", limit)
    assert found.returncode == 0, found.stderr
    taken = json.loads(found.stdout)["peak_memory_bytes"]
    assert 0.7 * limit < taken < limit, found.stderr


@pytest.fixture
def ragged(tmp_path):
    """300 rows, most of 200 to 500 tokens, a hundredth of them 1,100."""
    drawn = np.random.default_rng(0)
    rows = [
        {"prompt": "Who?", "completion": words(int(drawn.integers(150, 350)) if row % 100 else 800, row)}
        for row in range(300)
    ]
    return write(tmp_path / "rows.jsonl", rows)


@pytest.fixture
def long_context(tmp_path):
    return whole_folder(tmp_path / "model", max_position_embeddings=4096)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("share", [pytest.param(0.8, marks=pytest.mark.slow), 0.5])
def test_what_costs_time_alone_is_given_up_before_a_row_is(mlxtune, ragged, long_context, backend, share):
    options = ("memory", "--model", long_context, "--data", ragged, "--backend", backend, "--json")
    limit = int(share * json.loads(mlxtune(*options).stdout)["predicted_peak_bytes"])
    found = json.loads(mlxtune(*options, "--fit", limit).stdout)
    assert found["fits"]
    assert found["left_out"] == ""
    assert "data.max_seq_length" not in found["changes"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_little_is_left_out_with_a_word_and_more_only_if_it_is_asked_for(mlxtune, ragged, long_context, backend):
    """The limits are those of the smallest plans of each kind."""
    options = ("--model", long_context, "--data", ragged, "--backend", backend)
    planner = Planner(build({}, {"model.name": str(long_context), "data.path": str(ragged), "backend.name": backend}))
    least = {"train.batch_size": 1, "train.grad_accum": 4, "backend.grad_checkpoint": True, "strategy.last_n": 1}
    least |= {"backend.prefix_cache": "on" if backend == "mlx" else "off", "optimizer.moments": "bf16"}

    def smallest(**more):
        changed = build(as_tree(planner.recipe), {**least, **more})
        return int(planner.plan(changed).plan.peak_bytes / SAFE) + 1

    (spared,) = planner.rows.lengths([])  # what the hundredth of long rows can be spared for
    found = mlxtune("memory", *options, "--fit", smallest(**{"data.max_seq_length": spared}), "--json")
    document = json.loads(found.stdout)
    assert document["changes"]["data.max_seq_length"] == spared
    assert re.match(
        r"\d+ of 300 rows, [\d,]+ of [\d,]+ tokens that carry loss \((1\.\d|0\.\d)%\)", document["left_out"]
    )

    limit = smallest(**{"data.max_seq_length": 256})
    assert limit < smallest(**{"data.max_seq_length": spared})
    refused = mlxtune("train", *options, "--fit", limit, "--out", "run")
    assert refused.returncode == 2
    assert "keep 98% of what carries loss" in refused.stderr
    assert re.search(
        r"leaves out \d+ of 300 rows, [\d,]+ of [\d,]+ tokens that carry loss \(\d\d\.\d%\)", refused.stderr
    )
    asked = re.search(r"ask for it: (--max-seq-length \d+)", refused.stderr)[1]
    agreed = mlxtune("memory", *options, *asked.split(), "--fit", limit, "--json")
    assert json.loads(agreed.stdout)["fits"], agreed.stderr


@pytest.mark.slow
def test_a_long_text_is_cut_into_more_rows_and_loses_none(mlxtune, long_context, tmp_path):
    text = text_of(tmp_path / "rows.txt", 20000)
    options = ("memory", "--model", long_context, "--data", text, "--backend", "numpy", "--json")
    limit = json.loads(mlxtune(*options).stdout)["predicted_peak_bytes"] // 10
    document = json.loads(mlxtune(*options, "--fit", limit).stdout)
    assert document["changes"]["data.max_seq_length"] < 2048
    assert document["left_out"] == ""


@pytest.mark.slow
def test_a_fit_goes_with_a_recipe(mlxtune, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {max_steps: 2, batch_size: 8}\nbackend: {name: numpy}\n")
    found = mlxtune("train", "--recipe", recipe, "--fit", "15MB", "--dry-run", "--json")
    assert found.returncode == 0, found.stderr
    made = json.loads(found.stdout)["recipe"]["train"]
    assert made["batch_size"] * made["grad_accum"] == 8
    assert made["batch_size"] < 8
    assert "fits with: " in found.stderr


def test_rows_that_are_not_there_to_be_counted_are_said_to_be_left_out(mlxtune):
    options = ("memory", "--model", "llama-3-8b", "--for", "mac", "--batch-size", 1, "--precision", "fp32", "--json")
    found = json.loads(mlxtune(*options, "--fit", "16GB").stdout)
    shorter = found["changes"]["data.max_seq_length"]
    assert found["left_out"] == f"rows of more than {shorter:,} tokens; --data shows how many"
    assert json.loads(mlxtune(*options, "--fit", "64GB").stdout)["left_out"] == ""
