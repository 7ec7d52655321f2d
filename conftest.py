"""Where MLX is not installed, the tests of its backend are skipped with that reason; all others run on NumPy.

The BLAS is the one that the program would compute with.
"""

import ast
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxtune.backends import blas

HAS_MLX = all(importlib.util.find_spec(name) for name in ("mlx", "mlx_lm"))

blas.configure()
blas.load_openblas()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the tests keep is not the user's."""
    os.environ["MLXTUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test that is marked `few(n)`, all cases are slow but for n, evenly spaced."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for of_test in cases.values():
        count = int(of_test[0].get_closest_marker("few").args[0])  # type: ignore[union-attr]
        fast = {place * len(of_test) // count for place in range(count)}
        for place, item in enumerate(of_test):
            if place not in fast:
                item.add_marker(pytest.mark.slow)


class WithoutMlx(pytest.Module):
    """A module of tests that cannot be imported here."""

    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip("MLX is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return WithoutMlx.from_parent(parent, path=module_path) if _left_out(module_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Iterator[None]:
    found = yield
    return [each for each in found if not (type(each).__name__ == "DoctestModule" and _left_out(file_path))]


def _left_out(path: Path) -> bool:
    return not HAS_MLX and any(_of_mlx(name) for name in _imported(path))


def _of_mlx(name: str) -> bool:
    return name.split(".")[0] in ("mlx", "mlx_lm") or name.startswith(("mlxtune.backends.mlx", "tests.support.mlx"))


def _imported(path: Path) -> Iterator[str]:
    """What a module imports at its top level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
