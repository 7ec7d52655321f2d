"""A short run in a folder of its own, and the reports that watch it or ask it to stop."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxtune.events import Event, Step
from mlxtune.recipe.recipe import Recipe, build
from mlxtune.storage import checkpoint
from tests.support.backend import BACKEND

ROWS = [{"text": f"Once there was a {animal} with a {thing}."} for animal in ("cat", "dog", "hen") for thing in "abcd"]


def write_rows(folder: Path) -> Path:
    """Twelve rows."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def recipes(data: Path) -> Callable[..., Recipe]:
    """A function from changes to the recipe of a short run in fp32; `out` is the run's folder, beside the data."""

    def make(out: str = "run", **changes: Any) -> Recipe:
        settings = short(data, out) | {"strategy.last_n": 1, "train.eval_every": 1, "backend.name": BACKEND}
        settings |= dotted(changes)
        if not settings["data.valid_share"]:
            del settings["train.eval_every"]
        return build({}, settings)

    return make


def lora_recipes(data: Path) -> Callable[..., Recipe]:
    """A function from changes to the recipe of a short run of LoRA on NumPy."""

    def make(**changes: Any) -> Recipe:
        settings = short(data, "run") | {"strategy.name": "lora", "backend.name": "numpy"}
        return build({}, settings | dotted(changes))

    return make


def short(data: Path, out: str) -> dict[str, Any]:
    """What the recipes of short runs have in common."""
    return {
        "data.path": str(data),
        "data.valid_share": 0.25,
        "train.max_steps": 6,
        "train.batch_size": 3,
        "schedule.learning_rate": 1e-3,
        "backend.precision": "fp32",
        "checkpoint.save_every": 2,
        "run.out": str(data.parent / out),
    }


def dotted(changes: dict[str, Any]) -> dict[str, Any]:
    """Keys of a recipe, which the arguments of a function write with two underscores."""
    return {key.replace("__", "."): value for key, value in changes.items()}


class Ask:
    """A report that asks the run to stop at a step, as a person with Ctrl-C does."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def __call__(self, event: Event) -> None:
        """Raise the signal."""
        if isinstance(event, Step) and event.step == self.step:
            signal.raise_signal(self.number)

    def close(self) -> None:
        """There is nothing to give back."""


class Keep(list[Event]):
    """A report that keeps the events."""

    __call__ = list.append

    def close(self) -> None:
        """There is nothing to give back."""


def last_bytes(folder: str | Path) -> list[bytes]:
    """The files of the last checkpoint that must not depend on how the run got there."""
    last = checkpoint.folders(Path(folder))[-1]
    return [(last / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)]
