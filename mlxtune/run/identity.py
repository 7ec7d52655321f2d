"""What a run was begun with, in files that carry their own digest: its settings, and what its numbers rest on besides.

RUN/recipe.yaml        every setting with its value; its presence makes a folder a run
RUN/environment.json   versions, device, fingerprints of model and data
"""

import platform
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from mlxtune.data.paths import is_pattern
from mlxtune.data.urls import is_url
from mlxtune.errors import BadRun
from mlxtune.format import counted
from mlxtune.models import hub
from mlxtune.models.aliases import TINY
from mlxtune.recipe.recipe import Recipe, as_yaml, flat
from mlxtune.settings import STRICT
from mlxtune.storage import sealed
from mlxtune.storage.documents import user_path
from mlxtune.storage.strict_yaml import load_yaml

RECIPE, ENVIRONMENT = "recipe.yaml", "environment.json"
PACKAGES = ("mlxtune", "mlx", "mlx-lm", "numpy", "safetensors", "tokenizers", "transformers")
# Settings that say where things are or how often they are looked at: they may change between a run and its resumption.
# Backends agree within float32's rounding, so a run may go from one to the other, if not to the same bytes.
# Gradient checkpointing computes the same numbers again: it changes no byte, and a run short of memory may begin it.
# The fingerprints say whether model and data are the same, wherever they are now.
FREE = {
    "run.out",
    "model.name",
    "model.revision",
    "data.path",
    "data.valid",
    "backend.name",
    "backend.system_blas",
    "backend.grad_checkpoint",
    "backend.memory_limit_bytes",
    "checkpoint.save_every",
    "checkpoint.keep",
    "train.eval_every",
    "train.patience",
    "sample.every",
    "sample.prompts",
    "sample.max_tokens",
    "sample.temperature",
}
LENGTH = {"train.max_steps", "train.epochs"}  # free too where the learning rate does not depend on the length


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run that was begun."""
    return (folder / RECIPE).exists()


def at_its_time(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the time that chat templates write, so that a row is the same on another day.

    It is the time at which the run in the folder began, which its recipe.yaml keeps; for a new run it is now.
    """
    if recipe.data.now is not None:
        return recipe
    begun = saved_recipe(folder).get("data", {}).get("now") if is_run(folder) else None
    now = begun or datetime.now().isoformat(timespec="seconds")
    return replace(recipe, data=replace(recipe.data, now=now))


def write_identity(folder: Path, recipe: Recipe, device: str, fingerprints: dict[str, str]) -> None:
    """recipe.yaml and environment.json, the recipe last: its presence makes the folder a run."""
    write_environment(folder, device, fingerprints)
    sealed.write_text(folder / RECIPE, as_yaml(_findable(recipe)))


def _findable(recipe: Recipe) -> Recipe:
    """With the whole paths of a model and data that lie on this machine: a run may be resumed from anywhere."""
    model = recipe.model.name
    if model not in (None, TINY) and isinstance(folder := hub.locate(model, recipe.model.revision), Path):
        recipe = replace(recipe, model=replace(recipe.model, name=str(folder.absolute())))
    return replace(recipe, data=recipe.data.elsewhere(_whole))


def _whole(data: str) -> str:
    if is_url(data):
        return data
    place = user_path(data, BadRun)
    return str(place.absolute()) if place.exists() or is_pattern(data) else data


def write_environment(folder: Path, device: str, fingerprints: dict[str, str]) -> None:
    """What the run's numbers depend on besides its settings."""
    versions = {"python": platform.python_version(), **_versions()}
    found = {"versions": versions, "platform": platform.platform(), "device": device, "fingerprints": fingerprints}
    sealed.write(folder / ENVIRONMENT, found)


class Environment(TypedDict):
    """environment.json."""

    __pydantic_config__ = STRICT  # type: ignore[misc]  # as pydantic's documentation has it

    versions: dict[str, str]
    platform: str
    device: str
    fingerprints: dict[str, str]


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def saved_recipe(folder: Path) -> dict[str, Any]:
    """The sections of a run's recipe.yaml. Raises BadRun where there is none, or not as the run wrote it."""
    path = folder / RECIPE
    if not path.is_file():
        found = "no such folder" if not folder.exists() else "none"
        remedy = "Name the folder that the run was given with --out."
        raise BadRun(str(folder), expected=f"a run folder with {RECIPE}", found=found, remedy=remedy)
    remedy = "Put the file back as it was. To train with other settings, copy them from it to a recipe of your own and"
    sealed.read_text(path, f"{remedy}\nbegin another run: mlxtune train --recipe RECIPE --out ANOTHER")
    return load_yaml(path, BadRun)


def environment(folder: Path) -> Environment:
    """What `write_environment` wrote. Raises BadRun."""
    return sealed.read(folder / ENVIRONMENT, Environment, "Put the file back as it was, or choose another --out.")


def differences(recipe: Recipe, fingerprints: dict[str, str], folder: Path) -> list[str]:
    """What has changed since the run was begun and would change its result, a line each."""
    old, new = _flat_tree(saved_recipe(folder)), flat(recipe)
    free = FREE | (LENGTH if recipe.schedule.name == "constant" else set())
    lines = [
        f"{key}: the run has {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if key not in free and old.get(key) != new.get(key)
    ]
    before = environment(folder)["fingerprints"]
    return lines + [
        f"{what}: its content has changed ({before.get(what, 'none')[:12]} is now {now[:12]})"
        for what, now in fingerprints.items()
        if before.get(what) != now
    ]


def _flat_tree(tree: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, keys in tree.items() for key, value in keys.items()}


def refuse_differences(folder: Path, lines: list[str]) -> None:
    """Raise BadRun that lists them, if there are any."""
    if lines:
        raise BadRun(
            str(folder),
            expected="the settings, model and data that the run was begun with",
            found=counted(len(lines), "difference"),
            remedy="\n".join([*lines, "Go on with the old settings, or choose another --out."]),
        )
