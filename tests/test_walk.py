"""The README's walk from the verb to the model's call, held to what runs."""

import re
import traceback
from pathlib import Path

import pytest

import mlxtune as package

llama = pytest.importorskip("mlx_lm.models.llama", reason="the walk ends in mlx-lm's model")
HOME = Path(package.__file__).parent
FRAMES_OF_A_STEP = 7  # from engine.train on, the model's own call is the eighth


def listed() -> list[tuple[str, str]]:
    """The files and functions of the README's table."""
    text = (HOME.parent / "README.md").read_text(encoding="utf-8")
    table = text.partition("| file | function | what it does |")[2].partition("\n\n")[0]
    return re.findall(r"^\| `([\w/.]+)` \| `(\w+)` \|", table, flags=re.MULTILINE)


def test_the_walk_in_the_readme_is_what_runs(mlxtune, monkeypatch, tmp_path):
    walks, own = [], llama.Model.__call__

    def call(model, *arguments, **named):
        stack = [frame for frame in traceback.extract_stack() if HOME in Path(frame.filename).parents]
        walks.append([(Path(frame.filename).relative_to(HOME).as_posix(), frame.name) for frame in stack])
        return own(model, *arguments, **named)

    monkeypatch.setattr(llama.Model, "__call__", call)
    ended = mlxtune("train", "--backend", "mlx", "--precision", "fp32", "--max-steps", 1, "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    gradient = ("backends/mlx/passes/network.py", "scaled_loss")  # the frozen layers' pass ends elsewhere
    [walk] = {tuple(walk) for walk in walks if gradient in walk}
    walk = [*walk[walk.index(("cli/train.py", "train")) :]]
    assert walk == listed()
    assert len(walk) - walk.index(("engine.py", "train")) <= FRAMES_OF_A_STEP
