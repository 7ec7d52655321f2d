"""Which backend a run gets, and the Learner or Speaker that it makes."""

import importlib.util
import platform
from pathlib import Path

from mlxtune.backends.base import Adapter, BackendSettings, Job, Learner, Speaker
from mlxtune.errors import Missing

INSTALL = {
    "Linux": 'Install it: pip install "mlxtune[cpu]", or "mlxtune[cuda]" with an NVIDIA GPU.',
    "Darwin": "Install it: pip install mlx mlx-lm",
}
NO_MLX = "MLX is not installed, so NumPy computes, on the processor."


def learner(settings: BackendSettings, job: Job) -> Learner:
    """A Learner that knows names and shapes, with no weight read. Raises Missing, BadSetting or BadModel."""
    if uses_numpy(settings):
        from mlxtune.backends.numpy.learner import NumpyLearner

        return NumpyLearner(job, notes=(NO_MLX,) if settings.name == "auto" else ())
    require_mlx()
    from mlxtune.backends.mlx.learner import MlxLearner

    return MlxLearner(job)


def speaker(settings: BackendSettings, folder: Path, adapter: Adapter | None) -> Speaker:
    """A model to try, with its weights read. Raises Missing, BadSetting or BadModel."""
    if uses_numpy(settings):
        from mlxtune.backends.numpy.speaker import NumpySpeaker

        return NumpySpeaker(folder, adapter, settings.precision)
    require_mlx()
    from mlxtune.backends.mlx.speaker import MlxSpeaker

    return MlxSpeaker(folder, adapter, settings.precision)


def uses_numpy(settings: BackendSettings) -> bool:
    """Whether NumPy was asked for, or is what there is."""
    return settings.name == "numpy" or (settings.name == "auto" and not has_mlx())


def has_mlx() -> bool:
    """Whether MLX and mlx-lm are installed; neither is imported."""
    return all(importlib.util.find_spec(package) is not None for package in ("mlx", "mlx_lm"))


def require_mlx() -> None:
    """Raises Missing, with the command that installs it, where MLX is not installed."""
    if has_mlx():
        return
    remedy = INSTALL.get(platform.system(), "MLX runs on macOS with Apple Silicon, and on Linux.")
    raise Missing(
        "mlx",
        expected="MLX and mlx-lm installed",
        found="neither or only one of them",
        remedy=f"{remedy}\nModels of the Llama family train without it: --backend numpy.",
    )
