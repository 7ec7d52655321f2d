"""The run folder: whose it is, what it holds, whether a run may go on in it. Nothing is ever overwritten.

RUN/recipe.yaml        every setting with its value
RUN/environment.json   versions, device, fingerprints of model and data
RUN/metrics.jsonl      one event a line
RUN/checkpoints/       see `checkpoint`
RUN/adapter/           see `export.adapter`
"""

import json
import platform
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import yaml

from mlxtune import checkpoint
from mlxtune.documents import user_path
from mlxtune.errors import BadRun
from mlxtune.models import hub
from mlxtune.models.aliases import TINY
from mlxtune.recipe import Recipe, as_yaml, flat
from mlxtune.storage import write_file, write_json

RECIPE, ENVIRONMENT, METRICS, ADAPTER, LOCK = "recipe.yaml", "environment.json", "metrics.jsonl", "adapter", ".lock"
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
    "backend.name",
    "backend.grad_checkpoint",
    "backend.memory_limit_bytes",
    "checkpoint.save_every",
    "checkpoint.keep",
    "train.eval_every",
    "train.patience",
}
LENGTH = {"train.max_steps", "train.epochs"}  # free too where the learning rate does not depend on the length


def default_folder(recipe: Recipe) -> Path:
    """A folder that does not exist yet: runs/dolphin-8b-last-n, runs/dolphin-8b-last-n-2, and so on."""
    model = (recipe.model.name or "tiny").rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    stem = f"{model}-{recipe.strategy.name}"
    number = 1
    while (folder := Path("runs") / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return folder


def check_unclaimed(folder: Path) -> None:
    """Refuse a folder that holds a run, or anything else."""
    if not folder.exists() or not any(path.name != LOCK for path in folder.iterdir()):
        return
    holds = "a run" if (folder / RECIPE).exists() else "files that are no run"
    raise BadRun(
        str(folder),
        expected="a new or empty folder for the run",
        found=holds,
        remedy="Choose another --out; nothing in it was touched.",
    )


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run that was begun."""
    return (folder / RECIPE).exists()


def claim(folder: Path) -> filelock.BaseFileLock:
    """Lock the folder for this process; the lock goes with the process. Raises BadRun where another one has it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise BadRun(
            str(folder),
            expected="a run folder that no other process uses",
            found="one that is in use",
            remedy="Wait for that run or stop it, or choose another --out.",
        ) from None
    return lock


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
    write_json(folder / ENVIRONMENT, environment(device, fingerprints))
    write_file(folder / RECIPE, as_yaml(_findable(recipe)).encode())


def _findable(recipe: Recipe) -> Recipe:
    """With the whole paths of a model and data that lie on this machine: a run may be resumed from anywhere."""
    model, data = recipe.model.name, recipe.data.path
    if model not in (None, TINY) and isinstance(folder := hub.locate(model, recipe.model.revision), Path):
        recipe = replace(recipe, model=replace(recipe.model, name=str(folder.absolute())))
    if data is not None and (place := user_path(data, BadRun)).exists():
        recipe = replace(recipe, data=replace(recipe.data, path=str(place.absolute())))
    return recipe


def environment(device: str, fingerprints: dict[str, str]) -> dict[str, Any]:
    """What the run's numbers depend on besides its settings."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "device": device,
        "fingerprints": fingerprints,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def saved_recipe(folder: Path) -> dict[str, Any]:
    """The sections of a run's recipe.yaml. Raises BadRun where there is none."""
    try:
        tree: dict[str, Any] = yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8"))
    except OSError:
        raise BadRun(
            str(folder),
            expected=f"a run folder with {RECIPE}",
            found="no such folder" if not folder.exists() else "none",
            remedy="Name the folder that the run was given with --out.",
        ) from None
    return tree


def differences(recipe: Recipe, fingerprints: dict[str, str], folder: Path) -> list[str]:
    """What has changed since the run was begun and would change its result, a line each."""
    old, new = _flat_tree(saved_recipe(folder)), flat(recipe)
    free = FREE | (LENGTH if recipe.schedule.name == "constant" else set())
    lines = [
        f"{key}: the run has {old.get(key)!r}, now {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if key not in free and old.get(key) != new.get(key)
    ]
    before = json.loads((folder / ENVIRONMENT).read_bytes())["fingerprints"]
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
            found=f"{len(lines)} differences",
            remedy="\n".join([*lines, "Go on with the old settings, or choose another --out."]),
        )


def newest_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint, or None before the first."""
    found = checkpoint.folders(folder)
    return found[-1] if found else None
