"""What `--fit` gives up, and in which order; then a real run that is made to fit half of what it took."""

import json
import shlex

import pytest

from mlxtune.errors import BadSetting
from mlxtune.memory.fit import SAFE, as_flags, search, single_changes
from mlxtune.recipe import as_tree, build
from tests.support_cli import BACKENDS
from tests.support_memory import outline_folder, text_of, whole_folder

LAYERS = 8
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
    assert peak(search(peak, tree(), LAYERS, limit)) <= SAFE * limit


def test_what_fits_is_left_as_it_is():
    assert search(peak, tree(), LAYERS, 10 * peak({})) == {}
    assert search(peak, tree(), LAYERS, round(peak({}) / SAFE) + 1) == {}


def test_less_memory_never_asks_for_what_costs_the_result_less():
    costs = [cost(search(peak, tree(), LAYERS, limit)) for limit in LIMITS]
    assert costs == sorted(costs)
    assert set(costs) == {0, 1, 2, 3}  # else the limits try nothing


@pytest.mark.parametrize("limit", LIMITS)
def test_nothing_is_given_up_that_something_cheaper_would_have_saved(limit):
    found = search(peak, tree(), LAYERS, limit)
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
    found = search(peak, recipe, LAYERS, limit)
    rows = found.get("train.batch_size", batch_size) * found.get("train.grad_accum", grad_accum)
    assert rows == batch_size * grad_accum
    for change in single_changes(recipe, LAYERS):
        rows = change.get("train.batch_size", batch_size) * change.get("train.grad_accum", grad_accum)
        assert rows == batch_size * grad_accum


def test_of_two_that_cost_alike_the_one_without_recomputing_is_taken():
    found = search(peak, tree(), LAYERS, 3600)
    assert "train.batch_size" in found
    assert "backend.grad_checkpoint" not in found


def test_what_contradicts_the_recipe_is_not_chosen():
    def without_checkpoints(changes):
        return None if changes.get("backend.grad_checkpoint") else peak(changes)

    for limit in LIMITS[:-3]:
        assert "backend.grad_checkpoint" not in search(without_checkpoints, tree(), LAYERS, limit)


def test_where_nothing_fits_the_smallest_that_would_is_said():
    asked = []

    def watched(changes):
        asked.append(peak(changes))
        return asked[-1] * 10**6

    with pytest.raises(BadSetting) as refused:
        search(watched, tree(), LAYERS, 10**6)
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


def test_what_nothing_fits_is_refused_before_anything_is_written(tmp_path, mlxtune):
    found = mlxtune("train", "--fit", "300kB", "--out", "run")
    assert found.returncode == 2
    assert "expected settings that fit 300.0 kB" in found.stderr
    assert not (tmp_path / "run").exists()


def test_bytes_that_are_none_are_refused(mlxtune):
    assert mlxtune("memory", "--fit=plenty").returncode == 2


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
