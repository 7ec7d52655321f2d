"""The figures of docs/memory.md are those of the plan."""

import re
import shutil

import pytest

from mlxtune.memory import mlx
from mlxtune.planning import predict as planning
from mlxtune.planning.predict import Planner
from mlxtune.recipe.recipe import build
from tests.support.assets import assets_folder
from tests.support.checkout import ROOT
from tests.support.memory import skip_without

PAGE = ROOT / "docs" / "memory.md"


@pytest.fixture
def planned(tmp_path, monkeypatch):
    shutil.copy(assets_folder() / "configs" / "Meta-Llama-3-8B.json", tmp_path / "config.json")
    monkeypatch.setattr(planning.choose, "machine", lambda *_: planning.choose.Machine(32 << 30, on_gpu=False))
    recipe = build({}, {"model.name": str(tmp_path), "train.batch_size": 1, "backend.name": "mlx"})
    skip_without(recipe.backend.name)
    return Planner(recipe).plan(recipe)


def figures():
    """The last cell of each row of a table, by the first."""
    rows = re.findall(r"^\| (.+?) \|.*\| ([\d,]+) \|$", PAGE.read_text(), re.M)
    return {name: int(number.replace(",", "")) for name, number in rows}


def test_the_page_has_the_plans_moments(planned):
    found = figures()
    assert {name: parts.total for name, parts in planned.plan.moments.items()}.items() <= found.items()
    assert f"The peak is {planned.plan.peak_bytes:,} bytes" in PAGE.read_text()


def test_the_page_has_what_stays_between_steps(planned):
    found, resident = figures(), planned.plan.resident
    assert found["frozen weights"] == resident.frozen_weights
    assert found["trainable weights"] == resident.trainable_weights
    assert found["optimizer"] == resident.optimizer
    assert f"{resident.frozen_weights + resident.trainable_weights:,}" in PAGE.read_text()


def test_the_lines_of_a_layer_add_up_to_what_the_plan_has(planned):
    found = list(figures().items())
    first, last = (
        next(i for i, (name, _) in enumerate(found) if name.startswith(word)) for word in ("inputs of two", "a layer")
    )
    lines = [number for _, number in found[first:last]]
    assert sum(lines) == found[last][1] == mlx.kept_bytes(planned.setup, planned.rows, 31)
