"""Every shipped recipe can be run as it is: checked whole, on a small model of the family that it is for."""

import json
import shutil

import pytest

from mlxtune.models import config
from mlxtune.models.hub import BUILT_IN
from mlxtune.recipe.recipe import build, read
from tests.support.checkout import ROOT
from tests.support.cli import BACKENDS, TEXT_ROWS, write
from tests.support.numpy import LLAMA3, write_model

RECIPES = ROOT / "recipes"
# A stand-in has the tokenizer and the sizes of the built-in model, and what is particular to the family.
STAND_INS = {
    "dolphin-8b-last-4.yaml": {"model_type": "llama"},
    "llama-3.2-1b-last-4.yaml": {"model_type": "llama", "tie_word_embeddings": True, "rope_scaling": LLAMA3},
    "qwen2.5-7b-last-4.yaml": {"model_type": "qwen2"},
}
LONG = {"max_position_embeddings": 8192}  # the context


@pytest.fixture
def options(tmp_path):
    """What --model and --data have to be for a recipe; the built-in model's recipe names all that it needs."""

    def of(recipe):
        if recipe.name not in STAND_INS:
            return ()
        folder, sizes = tmp_path / "model", config.read(BUILT_IN)
        write_model(folder, num_hidden_layers=5, vocab_size=sizes.vocab_size, **LONG, **STAND_INS[recipe.name])
        for tokenizer in BUILT_IN.glob("*token*"):
            shutil.copy(tokenizer, folder)
        return "--model", folder, "--data", write(tmp_path / "rows.jsonl", TEXT_ROWS)

    return of


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
@pytest.mark.few(2)
def test_a_dry_run_of_every_recipe_trains_what_it_says(path, backend, options, mlxtune):
    found = mlxtune("train", "--recipe", path, *options(path), "--backend", backend, "--dry-run", "--json")
    assert found.returncode == 0, found.stderr
    document, recipe = json.loads(found.stdout), build(read(path), {})
    assert document["plan"]["backend"] == backend
    assert document["plan"]["precision"] == recipe.backend.precision
    assert document["plan"]["steps"] == recipe.train.max_steps
    assert document["plan"]["strategy"].startswith(f"last {recipe.strategy.last_n} of 5 layers, final norm")
    assert ("head" in document["plan"]["strategy"]) != path.name.startswith("llama-3.2")  # whose head is tied


@pytest.mark.slow
def test_a_dry_run_of_several_checks_each_and_runs_none(tmp_path, mlxtune):
    (tmp_path / "bad.yaml").write_text("train: {batch_size: 0}\n")
    (tmp_path / "good.yaml").write_text("train: {max_steps: 3}\n")
    before = sorted(tmp_path.rglob("*"))
    found = mlxtune("run", "bad.yaml", "good.yaml", "--dry-run")
    assert found.returncode == 2
    assert "train.batch_size" in found.stderr
    assert "# good.yaml" in found.stdout
    assert "max_steps: 3" in found.stdout
    assert mlxtune("run", "good.yaml", "good.yaml", "--dry-run").returncode == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_several_is_one_json_document(tmp_path, mlxtune):
    (tmp_path / "bad.yaml").write_text("train: {batch_size: 0}\n")
    (tmp_path / "good.yaml").write_text("train: {max_steps: 3}\n")
    bad, good = json.loads(mlxtune("run", "bad.yaml", "good.yaml", "--dry-run", "--json").stdout)["recipes"]
    assert bad == {"recipe": "bad.yaml", "exit_code": 2}
    assert (good["exit_code"], good["plan"]["steps"], good["settings"]["train"]["max_steps"]) == (0, 3, 3)
