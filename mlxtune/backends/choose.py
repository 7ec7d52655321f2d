"""Which backend a run gets, and the Blueprint or Speaker that it makes."""

import importlib.util
import platform
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import NamedTuple

from mlxtune.adapters.folder import Saved
from mlxtune.backends import blas
from mlxtune.backends.base import BackendSettings, Blueprint, Job, Speaker
from mlxtune.backends.numpy import config as numpy_config
from mlxtune.backends.numpy.device import memory_bytes
from mlxtune.errors import BadModel, Missing
from mlxtune.models import config as model_config
from mlxtune.models import weights
from mlxtune.models.outline import Outline
from mlxtune.models.shapes import as_loaded

INSTALL = {
    "Linux": 'Install it: pip install "mlxtune[cpu]", or "mlxtune[cuda]" with an NVIDIA GPU.',
    "Darwin": "Install it: pip install mlx mlx-lm",
}
NO_MLX = "MLX is not installed, so NumPy computes, on the processor."
NUMPY_IS_FASTER = (
    "MLX has only the processor here, where NumPy takes an eighth to two thirds of its time a step in fp32"
    " and less in 16 bits: NumPy computes. To compute with MLX, give --backend mlx."
)
ONLY_MLX_CAN = "MLX has only the processor here. NumPy would be faster, but does not have this architecture."
ONLY_MLX_FITS = "MLX has only the processor here. NumPy would be faster, but its float32 weights would not fit."
WEIGHTS_SHARE = 0.5  # of the machine's memory that NumPy's weights may take before `auto` leaves them to MLX


class Choice(NamedTuple):
    name: str  # "mlx" or "numpy"
    notes: tuple[str, ...]  # why, and on what


class Machine(NamedTuple):
    limit_bytes: int  # what a run may take; 0 where the system does not say
    on_gpu: bool


def blueprint(settings: BackendSettings, job: Job) -> Blueprint:
    """A model by names and shapes, with no weight read. Raises Missing, BadSetting or BadModel."""
    chosen = choose(settings, job.folder)
    if chosen.name == "numpy":
        from mlxtune.backends.numpy.blueprint import NumpyBlueprint

        return NumpyBlueprint(job, chosen.notes)
    from mlxtune.backends.mlx.blueprint import MlxBlueprint

    return MlxBlueprint(job, chosen.notes)


def speaker(settings: BackendSettings, folder: Path, adapter: Saved | None) -> Speaker:
    """A model to try, with its weights read. Raises Missing, BadSetting or BadModel."""
    if choose(settings, folder).name == "numpy":
        from mlxtune.backends.numpy.speaker import NumpySpeaker

        return NumpySpeaker(folder, adapter, settings.precision)
    from mlxtune.backends.mlx.speaker import MlxSpeaker

    return MlxSpeaker(folder, adapter, settings.precision)


def choose(settings: BackendSettings, folder: Path) -> Choice:
    """The backend for a model folder: the one asked for, or the faster of those that can. Raises Missing."""

    def elements() -> int:
        config = model_config.read(folder)
        return sum(prod(info.shape) for info in as_loaded(weights.headers(folder), config.tied).values())

    return _choose(settings, lambda: numpy_config.read(folder), elements)


def of_outline(settings: BackendSettings, outline: Outline) -> Choice:
    """The same for a model whose weights need not be there. Raises BadModel where NumPy is asked for and lacks it."""

    def decoder() -> object:
        return numpy_config.of(outline.config, outline.place)

    if settings.name == "numpy":
        decoder()
    return _choose(settings, decoder, lambda: sum(map(prod, outline.shapes.values())))


def _choose(settings: BackendSettings, decoder: Callable[[], object], elements: Callable[[], int]) -> Choice:
    """decoder: raises BadModel for what NumPy does not have. elements: of all weights."""
    if settings.name == "numpy":
        return Choice("numpy", ())
    if settings.name == "auto" and not has_mlx():
        return Choice("numpy", (NO_MLX,))
    require_mlx()
    on_processor = _mlx_has_only_the_processor(settings)
    if settings.name == "mlx" or not on_processor:
        return Choice("mlx", _blas_notes(settings) if on_processor else ())
    why_mlx = _why_not_numpy(decoder, elements)
    return Choice("mlx", (why_mlx, *_blas_notes(settings))) if why_mlx else Choice("numpy", (NUMPY_IS_FASTER,))


def machine(settings: BackendSettings, backend: str) -> Machine:
    """What this machine has for a backend."""
    if backend == "numpy":
        return Machine(memory_bytes(), on_gpu=False)
    on_processor = _mlx_has_only_the_processor(settings)
    from mlxtune.backends.mlx import device

    return Machine(device.memory_limit_bytes(), on_gpu=not on_processor)


def _mlx_has_only_the_processor(settings: BackendSettings) -> bool:
    """Imports MLX, after the BLAS that it is to compute with."""
    if settings.system_blas:
        blas.load_openblas()
    from mlxtune.backends.mlx import device

    return device.is_processor()


def _blas_notes(settings: BackendSettings) -> tuple[str, ...]:
    if platform.system() != "Linux":
        return ()  # Accelerate
    if not settings.system_blas:
        return (blas.NOT_USED,)
    return (blas.USED if blas.load_openblas() else blas.MISSING,)


def _why_not_numpy(decoder: Callable[[], object], elements: Callable[[], int]) -> str | None:
    try:
        decoder()
    except BadModel:
        return ONLY_MLX_CAN
    return ONLY_MLX_FITS if 4 * elements() > WEIGHTS_SHARE * memory_bytes() > 0 else None


def is_a_mac() -> bool:
    """Whether this machine computes on Apple Silicon."""
    return (platform.system(), platform.machine()) == ("Darwin", "arm64")


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
