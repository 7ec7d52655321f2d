"""The first job of a newcomer: the built-in model on the built-in rows, with settings of which it is known to learn.

A job that names no recipe, no model and no data has the settings of the demo's recipe in the place of the defaults,
which are for large models. What the flags say otherwise wins, and takes what belongs to it along: another strategy,
optimizer or schedule has its own settings, and another length its own validations and checkpoints.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.models.aliases import TINY
from mlxtune.recipe.recipe import read

RECIPE = Path(__file__).parent.parent / "assets" / "recipe.yaml"
OF_ANY_SCHEDULE = ("name", "learning_rate", "warmup_steps")
OF_THE_LENGTH = {"train": ("max_steps", "eval_every"), "schedule": ("warmup_steps",), "checkpoint": ("save_every",)}


def settings(overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of keys beneath these overrides; none for a job that is another.

    >>> settings({})["schedule"]["learning_rate"], settings({"model.name": "llama-3-8b"})
    (0.005, {})
    """
    if overrides.get("model.name") not in (None, TINY) or overrides.get("data.path") is not None:
        return {}
    tree = read(RECIPE)
    for section in ("strategy", "optimizer"):
        if overrides.get(f"{section}.name") not in (None, tree[section]["name"]):
            del tree[section]
    if overrides.get("schedule.name") not in (None, tree["schedule"]["name"]):
        tree["schedule"] = {key: tree["schedule"][key] for key in OF_ANY_SCHEDULE}
    if overrides.keys() & {"train.max_steps", "train.epochs"}:
        tree = {name: _without(keys, OF_THE_LENGTH.get(name, ())) for name, keys in tree.items()}
    return tree


def _without(keys: dict[str, Any], left_out: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in keys.items() if key not in left_out}
