"""Which backends compute here and are right, on which BLAS, and which of them `--backend auto` takes."""

import platform

from mlxtune.backends import blas, choose
from mlxtune.backends.base import BackendSettings
from mlxtune.backends.probe import SIZE, TOLERANCE, Probe
from mlxtune.checks import Check
from mlxtune.doctor.probing import probe
from mlxtune.format import size
from mlxtune.models.hub import BUILT_IN

Showed = Probe | str | None  # why it showed nothing; None where it is not installed
FAILED = "Every run with --backend {name} fails."
REINSTALL = "Reinstall it: pip install --force-reinstall {packages}"
WRONG = "What is trained on it would be wrong."
WORKING_SET = (
    "What the GPU can hold; on Metal the recommended working set. A run that needs more slows down or is refused."
)
MLX_HAS_A_GPU = "MLX has a GPU here."
OTHERS_TAKE_MLX = "Architectures that NumPy does not have, and weights too large for it, go to MLX."


def checks() -> list[Check]:
    """Has each of them compute, one after the other."""
    mlx = probe("mlx") if choose.has_mlx() else None
    return [computes("numpy", probe("numpy")), computes("mlx", mlx), *working_set(mlx), *products(mlx), auto(mlx)]


def computes(name: str, showed: Showed) -> Check:
    """A product's speed, and whether a gradient is the one that is known."""
    label = f"{name} backend"
    if showed is None:
        return Check(label, "warn", "MLX and mlx-lm are not both installed", choose.NO_MLX, install_mlx())
    remedy = REINSTALL.format(packages="numpy") if name == "numpy" else install_mlx()
    if isinstance(showed, str):
        return Check(label, "bad", showed, FAILED.format(name=name), remedy)
    speed = f"{showed.gflops:,.0f} GFLOP/s in a product of {SIZE}^3 in float32, on {showed.device}"
    off = f"{showed.gradient_error:.0e} of its largest entry"
    if showed.gradient_error <= TOLERANCE:
        return Check(label, "ok", speed, f"A known gradient is right to {off}.")
    return Check(label, "bad", f"a wrong gradient, off by {off}; {speed}", WRONG, remedy)


def install_mlx() -> str:
    """The command, or where MLX runs at all."""
    return choose.INSTALL.get(platform.system(), "MLX runs on macOS 14 or later with Apple Silicon, and on Linux.")


def working_set(mlx: Showed) -> list[Check]:
    """What a GPU can give; nothing where MLX has none."""
    if not isinstance(mlx, Probe) or mlx.on_processor:
        return []
    return [Check("working set", "ok", size(mlx.memory_limit_bytes), WORKING_SET)]


def products(mlx: Showed) -> list[Check]:
    """The BLAS under MLX on a processor; a GPU needs none."""
    if not isinstance(mlx, Probe) or not mlx.on_processor:
        return []
    if platform.system() != "Linux":
        return [Check("blas of mlx", "ok", "Accelerate")] if platform.system() == "Darwin" else []
    if blas.load_openblas():
        return [Check("blas of mlx", "ok", "the system's OpenBLAS")]
    return [Check("blas of mlx", "warn", "the one in MLX's wheel", blas.SLOW, blas.INSTALL)]


def auto(mlx: Showed) -> Check:
    """The backend of a run that names none, for a model of the Llama family."""
    if isinstance(mlx, str):
        return Check(
            "--backend auto",
            "bad",
            "mlx, which fails",
            "MLX is installed, so runs take it.",
            "Until it is mended: --backend numpy",
        )
    name, notes = choose.choose(BackendSettings(), BUILT_IN)
    if name == "numpy" and mlx is not None:
        notes = (*notes, OTHERS_TAKE_MLX)
    return Check("--backend auto", "ok", name, " ".join(notes) or MLX_HAS_A_GPU)
