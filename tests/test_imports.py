"""Imports run downwards only. This file is the table of levels, and the reading of every file's imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mlxtune.cli

PACKAGE = Path(mlxtune.__file__).parent

# From the top down. What stands on one line does not import each other; a lower line never imports a higher one.
LEVELS = """
__main__
cli
front
run inference bench doctor
planning
recipe
engine export report
pace progress samples
feed speech
validating
memory
backends
strategies
adapters
optim objectives models data
storage
settings prefetch
errors events checks
format
__init__
"""

# A library and the only parts of the house that may import it.
ONLY = {
    "rich": ("report",),
    "typer": ("cli",),
    "click": ("cli",),
    "mlx": ("backends.mlx", "bench.sides"),
    "mlx_lm": ("backends.mlx", "bench.sides"),
}

STANDARD_LIBRARY_ONLY = ("errors", "events", "format", "checks")

LEVEL = {name: depth for depth, line in enumerate(LEVELS.split("\n")) for name in line.split()}


def module_name(root: Path, path: Path) -> str:
    """Name of a file inside the package: "data.batches"; a package's own file has the package's name."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def inner(name: str, modules: Mapping[str, Path]) -> str | None:
    """The module of ours that `mlxtune.data.batches.collate` comes from: "data.batches"; None for other packages."""
    package, _, rest = name.partition(".")
    if package != "mlxtune":
        return None
    while rest and rest not in modules:
        rest = rest.rpartition(".")[0]
    return rest or "__init__"


def faults(root: Path) -> list[str]:
    """Every import in the package that goes against the table, as "file:line: what"."""
    modules = {module_name(root, path): path for path in sorted(root.rglob("*.py"))}
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        own = name.split(".")[0]
        if own not in LEVEL:
            found.append(f"{path.name}: {own} has no level in {Path(__file__).name}")
            continue
        for line, full in imported(path):
            place = f"{path.relative_to(root)}:{line}"
            target = inner(full, modules)
            if target is None:
                found += foreign(place, name, full.split(".")[0])
                continue
            graph.setdefault(name, set()).add(target)
            found += direction(place, own, target.split(".")[0])
    return [*dict.fromkeys(found), *cycles(graph)]


def direction(place: str, own: str, other: str) -> list[str]:
    if own == other or other not in LEVEL or LEVEL[own] < LEVEL[other]:
        return []
    return [f"{place}: {own} imports {other}, which is not below it"]


def foreign(place: str, name: str, library: str) -> list[str]:
    """Libraries that only one part of the house may import."""
    found = []
    homes = ONLY.get(library, ())
    if homes and not any(f"{name}.".startswith(f"{home}.") for home in homes):
        found.append(f"{place}: only {' and '.join(homes)} import{'' if homes[1:] else 's'} {library}")
    if name in STANDARD_LIBRARY_ONLY and library not in sys.stdlib_module_names:
        found.append(f"{place}: {name} imports {library}, and only the standard library is open to it")
    return found


def cycles(graph: Mapping[str, set[str]]) -> list[str]:
    """The first ring of files that import each other. A package's own file and the package's modules are not one."""
    try:
        TopologicalSorter({name: targets - {name} for name, targets in graph.items()}).prepare()
    except CycleError as error:
        return [f"a cycle: {' -> '.join(error.args[1])}"]
    return []


@pytest.mark.slow
def test_imports_run_downwards_only() -> None:
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("data/rows.py", "from mlxtune.models.hub import resolve", "data/rows.py:1: data imports models"),
        ("errors.py", "def f():\n    import mlxtune.cli", "errors.py:2: errors imports cli"),
        ("events.py", "import pydantic", "events.py:1: events imports pydantic"),
        ("engine.py", "from rich.console import Console", "engine.py:1: only report imports rich"),
        ("backends/base.py", "import mlx.core", "backends/base.py:1: only backends.mlx and bench.sides import mlx"),
        ("extra.py", "", "extra.py: extra has no level"),
        ("optim/a.py", "from mlxtune.optim import b", "a cycle: optim."),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, file: str, text: str, fault: str) -> None:
    for name in ("models/hub.py", "cli/__init__.py", "optim/a.py", "backends/mlx/learner.py", "errors.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "optim/b.py").write_text("from mlxtune.optim.a import x")
    (tmp_path / "backends/mlx/learner.py").write_text("import mlx.core\nfrom mlxtune.errors import BadModel")
    assert faults(tmp_path) == []
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    (found,) = faults(tmp_path)
    assert found.startswith(fault)


@pytest.mark.skipif(not hasattr(mlxtune.cli, "main"), reason="the command line is not there yet")
@pytest.mark.parametrize("verb", [[], ["train"], ["models"]])
def test_help_imports_no_array_library(verb: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "mlxtune", *verb, "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(re.findall(r"^import time:.*\| +([\w.]+)$", ended.stderr, flags=re.MULTILINE))
    assert "typer" in loaded
    assert not loaded & {"numpy", "mlx", "mlx.core", "torch", "transformers", "huggingface_hub", "pyarrow"}
