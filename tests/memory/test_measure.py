"""`mlxtune memory --measure`: real steps beside the plan, and what later plans learn from them."""

import json
import shutil
from pathlib import Path

import pytest

from mlxtune.memory import kept_ratio
from mlxtune.models import config as model_config
from mlxtune.models.hub import BUILT_IN
from mlxtune.recipe.recipe import build
from mlxtune.run import session
from mlxtune.run.prepare import prepare
from tests.support.cli import BACKENDS, write
from tests.support.memory import text_of, whole_folder, words


@pytest.fixture
def memory(mlxtune, tmp_path, monkeypatch):
    """A function from options to the document of `memory --json`; what is measured is kept for this test alone."""
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))

    def call(*options):
        found = mlxtune("memory", *options, "--json")
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    return call


SHORT = ("--max-steps", 5)
NUMPY_IS_RIGHT = pytest.approx(1, abs=0.003)  # the plan is a bound, of the built-in model 0.2% above what is taken


def parts(document):
    return sum(document["parts"].values())


def learn(folder: Path, ratio: float) -> None:
    """What a measurement would have kept for both backends."""
    for backend in ("mlx", "numpy"):
        kept_ratio.write(model_config.read(folder), backend, ratio)


@pytest.mark.slow
def test_what_is_measured_corrects_the_next_plan_of_this_model_alone(tmp_path, memory):
    options = ("--backend", BACKENDS[0], *SHORT)
    learn(BUILT_IN, 1.5)
    measured = memory(*options, "--measure")
    ratio = measured["measured_peak_bytes"] / parts(measured)
    after = memory(*options)
    expected = pytest.approx(ratio) if BACKENDS[0] == "mlx" else NUMPY_IS_RIGHT
    assert after["measured_factor"] == expected  # over the shapes' plan, not over the corrected one
    assert after["predicted_peak_bytes"] == round(parts(after) * after["measured_factor"])
    assert any(f"Corrected by {after['measured_factor']:.3f}" in note for note in after["notes"]) == (
        after["measured_factor"] != 1
    )
    _other(tmp_path / "other")
    assert memory("--model", tmp_path / "other", *options)["measured_factor"] == 1


def _other(folder: Path) -> None:
    """The built-in model with another epsilon: other numbers of the same shapes."""
    shutil.copytree(BUILT_IN, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 2e-5}))


@pytest.mark.slow
def test_a_ratio_is_said_and_holds_for_a_run_too(memory, mlxtune):
    options = ("--backend", BACKENDS[0], *SHORT)
    plain = memory(*options)
    assert not [note for note in plain["notes"] if "measured" in note]
    learn(BUILT_IN, 1.5)
    after = memory(*options)
    assert after["predicted_peak_bytes"] == round(1.5 * plain["predicted_peak_bytes"])
    assert "Corrected by 1.500, as measured on this machine with this model." in after["notes"]
    dry = json.loads(mlxtune("train", *options, "--dry-run", "--json").stdout)
    assert dry["plan"]["predicted_peak_bytes"] == after["predicted_peak_bytes"]


@pytest.mark.slow
def test_numpy_takes_what_is_planned_however_few_of_its_rows_are_measured(memory):
    memory("--backend", "numpy", *SHORT, "--measure")
    assert memory("--backend", "numpy", *SHORT)["measured_factor"] == NUMPY_IS_RIGHT


@pytest.mark.skipif(len(BACKENDS) == 1, reason="there is nothing to choose without MLX")
@pytest.mark.slow
def test_of_a_backend_that_is_left_to_choose_that_is_planned_which_is_measured(memory):
    learn(BUILT_IN, 1.5)
    chosen = memory(*SHORT, "--measure")
    after = {backend: memory("--backend", backend, *SHORT) for backend in ("mlx", "numpy")}
    [same] = [backend for backend, document in after.items() if document["measured_factor"] != 1.5]
    assert parts(after[same]) == parts(chosen)
    assert parts(after["mlx"]) != parts(after["numpy"])  # else it says nothing


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_measured_is_what_a_run_takes(tmp_path, memory, mlxtune, backend):
    model = whole_folder(tmp_path / "model", hidden_size=256, intermediate_size=768)
    (tmp_path / "all.yaml").write_text("data: {valid_share: 0.0}\n")  # a step is the largest moment
    data = ("--data", text_of(tmp_path / "rows.txt", 6000), "--max-seq-length", 256, "--last-n", 2)
    options = (
        "--model",
        model,
        *data,
        "--recipe",
        "all.yaml",
        "--backend",
        backend,
        "--precision",
        "fp32",
        "--max-steps",
        3,
    )
    # The run first: afterwards it would be held to what was measured.
    end = json.loads(mlxtune("train", *options, "--out", "run", "--json").stdout)
    measured = memory(*options, "--measure")["measured_peak_bytes"]
    assert measured == pytest.approx(end["peak_memory_bytes"], rel=0.1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_what_is_measured_is_a_step_on_rows_that_are_trained_and_not_on_longer_ones_of_the_validation(
    tmp_path, memory, mlxtune, backend
):
    data = tmp_path / "data"
    data.mkdir()
    write(data / "train.jsonl", [{"text": words(20, seed)} for seed in range(8)])
    write(data / "valid.jsonl", [{"text": words(120, seed)} for seed in range(4)])
    options = ("--data", data, "--backend", backend, "--model", whole_folder(tmp_path / "model"), "--precision", "fp32")
    end = json.loads(mlxtune("train", *options, "--out", "run", "--json").stdout)
    measured = memory(*options, "--measure")["measured_peak_bytes"]
    assert measured == pytest.approx(end["peak_memory_bytes"], rel=0.1)


@pytest.mark.slow
def test_the_table_has_predicted_beside_measured(mlxtune, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    found = mlxtune("memory", "--backend", BACKENDS[-1], *SHORT, "--measure")
    assert found.returncode == 0, found.stderr
    heading = next(line for line in found.stdout.splitlines() if "predicted" in line)
    assert heading.split() == ["predicted", "measured", "off", "by"]
    assert "Kept for later plans on this machine" in found.stdout


@pytest.mark.parametrize("steps", [3, 30])
def test_a_run_of_less_than_an_epoch_is_planned_with_the_rows_that_it_reaches(tmp_path, steps):
    """Of the frozen layers' output, which NumPy keeps in memory row by row."""
    settings = {"backend.name": "numpy", "train.max_steps": steps, "run.out": str(tmp_path / "run")}
    prepared = prepare(build({}, settings))
    assert steps < prepared.pace.per_epoch
    end = session.start(build({}, settings))
    assert prepared.plan.peak_bytes == pytest.approx(end.memory.peak_memory_bytes, rel=0.02)
