"""The backend that whole runs are tested on, and what a run does with a learner's state."""

from pathlib import Path
from typing import Any

from mlxtune.backends.base import Learner
from mlxtune.backends.choose import has_mlx
from mlxtune.storage import checkpoint

BACKEND = "mlx" if has_mlx() else "numpy"  # `auto` would take NumPy on a processor


def save(run: Path, step: int, learner: Learner, state: dict[str, Any] | None = None) -> Path:
    """A checkpoint of the learner."""
    checkpoint.write(run, step, learner.weights(), learner.optimizer_state())
    rest: dict[str, Any] = {"progress": {}, "learner": learner.scalars(), "fingerprints": {}}
    return checkpoint.settle(run, step, rest | (state or {}))
