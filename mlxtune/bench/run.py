"""The whole of `mlxtune bench`: as lines, each when it is known, or as one JSON document."""

from collections.abc import Callable, Iterator
from typing import Any

from mlxtune.backends.choose import require_mlx
from mlxtune.bench import table
from mlxtune.bench.cases import chosen
from mlxtune.bench.compare import Comparison, Settings, Tell, compare, compare_techniques

Compare = Callable[[], Comparison]


def lines(names: list[str], settings: Settings, tell: Tell, *, techniques: bool) -> Iterator[str]:
    """The tables, what their words mean, and what was measured on. Raises BadSetting, Missing and RunStopped."""
    show = table.technique_lines if techniques else table.lines
    comparisons = []
    for compare_one in _plan(names, settings, tell, techniques=techniques):
        comparisons.append(compare_one())
        yield from (*show(comparisons[-1]), "")
    yield from (table.TECHNIQUES_LEGEND if techniques else table.LEGEND, "")
    yield from table.machine_lines(table.machine(comparisons, settings))


def document(names: list[str], settings: Settings, tell: Tell, *, techniques: bool) -> dict[str, Any]:
    """The same and every single result, for scripts."""
    comparisons = [compare_one() for compare_one in _plan(names, settings, tell, techniques=techniques)]
    machine = table.machine(comparisons, settings)
    return {"machine": machine, "comparisons": [table.as_json(each) for each in comparisons]}


def _plan(names: list[str], settings: Settings, tell: Tell, *, techniques: bool) -> list[Compare]:
    require_mlx()
    cases = chosen(names)
    if techniques:
        return [lambda: compare_techniques(cases[0], settings, tell)]
    return [lambda case=case: compare(case, settings, tell) for case in cases]  # type: ignore[misc]
