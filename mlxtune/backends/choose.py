"""Which backend a run gets, and the Learner that it makes."""

import importlib.util
import platform
from pathlib import Path

from mlxtune.backends.base import Adapter, BackendSettings, Job, Learner, Speaker
from mlxtune.errors import BadSetting, Missing


def learner(settings: BackendSettings, job: Job) -> Learner:
    """A Learner that knows names and shapes, with no weight read. Raises Missing, BadSetting or BadModel."""
    _refuse_numpy(settings)
    require_mlx()
    from mlxtune.backends.mlx.learner import MlxLearner

    return MlxLearner(job)


def _refuse_numpy(settings: BackendSettings) -> None:
    if settings.name == "numpy":
        raise BadSetting("backend.name", expected="auto or mlx", found="numpy", remedy="There is no NumPy path yet.")


def speaker(settings: BackendSettings, folder: Path, adapter: Adapter | None) -> Speaker:
    """A model to try, with its weights read. Raises Missing, BadSetting or BadModel."""
    _refuse_numpy(settings)
    require_mlx()
    from mlxtune.backends.mlx.speaker import MlxSpeaker

    return MlxSpeaker(folder, adapter, settings.precision)


def require_mlx() -> None:
    """Raises Missing, with the command that installs it, where MLX is not installed."""
    if importlib.util.find_spec("mlx") and importlib.util.find_spec("mlx_lm"):
        return
    remedy = {
        "Linux": 'Install it: pip install "mlxtune[cpu]", or "mlxtune[cuda]" with an NVIDIA GPU.',
        "Darwin": "Install it: pip install mlx mlx-lm",
    }.get(platform.system(), "MLX runs on macOS with Apple Silicon, and on Linux.")
    raise Missing("mlx", expected="MLX and mlx-lm installed", found="neither or only one of them", remedy=remedy)
