"""Which versions are installed, and what is absent."""

import platform
from importlib.metadata import PackageNotFoundError, version

from mlxtune.checks import Check

NEEDED = ("mlxtune", "numpy", "transformers")
OF_MLX = ("mlx", "mlx-lm")


def checks() -> list[Check]:
    """Python and the packages that results depend on. None of them is imported."""
    python = Check("python", "ok", f"{platform.python_version()}, {platform.machine()}, {platform.system()}")
    return [python, *map(_needed, NEEDED), *map(_of_mlx, OF_MLX)]


def _needed(package: str) -> Check:
    found = _version(package)
    if found:
        return Check(package, "ok", found)
    if package == "mlxtune":
        return Check(package, "ok", "not installed, run from a checkout")
    return Check(package, "bad", "absent", "Nothing trains without it.", f"pip install {package}")


def _of_mlx(package: str) -> Check:
    found = _version(package)
    if found:
        return Check(package, "ok", found)
    meaning = "Without MLX and mlx-lm NumPy computes, on the processor, and trains models of the Llama family."
    return Check(package, "warn", "absent", meaning, "`mlx backend`, below, says how to install it.")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
