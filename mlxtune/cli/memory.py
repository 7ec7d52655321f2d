"""`mlxtune memory`: how much a run will take, and for what."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from mlxtune.cli.options import recipe_options

EXAMPLES = """Say how much memory a run will take, and for what. No weights are read or fetched.

[dim]Examples[/dim]

  mlxtune memory                                   [dim]this machine, and the built-in run on it[/dim]

  mlxtune memory --model llama-3-8b --batch-size 1 --max-seq-length 2048

  mlxtune memory --model llama-3-8b --data rows.jsonl --fit 24GB   [dim]settings that fit, as flags[/dim]

  mlxtune memory --model llama-3.2-1b --data rows.jsonl --measure  [dim]three real steps beside the plan[/dim]
"""


@recipe_options
def memory(
    overrides: dict[str, Any],
    recipe: Annotated[str | None, typer.Option("--recipe", help="YAML file of settings; flags win over it.")] = None,
    fit: Annotated[
        str | None, typer.Option("--fit", metavar="[BYTES]", help="Find settings that fit: 24GB, or what is free here.")
    ] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Load the model and make three steps beside it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    from mlxtune.cli.fitting import fitted
    from mlxtune.cli.runs import print_json
    from mlxtune.cli.train import built
    from mlxtune.memory.plan import as_json
    from mlxtune.planning import Planner, settled
    from mlxtune.report.waiting import doing

    wanted = built(recipe, overrides)
    with doing("planning"):
        if measure:
            wanted = settled(wanted)
        planner = Planner(wanted)
        changes: Mapping[str, Any] = {}
        limit_bytes = planner.limit_bytes
        if fit is not None:
            wanted, changes, limit_bytes = fitted(wanted, fit, planner)
        planned = planner.plan(wanted)
    measured = _measured(wanted, json=json) if measure else None
    if json:
        document = as_json(planned.plan, limit_bytes, measured and measured.peak_bytes)
        print_json({**document, **_about(planner, planned), "changes": dict(changes), "notes": list(planner.notes)})
        return
    _show(planner, planned, changes, limit_bytes)
    if measured is not None:
        from mlxtune.report.memory import show_measured

        show_measured(measured.parts, measured.ratio)


memory.__doc__ = EXAMPLES


def _measured(recipe: Any, *, json: bool) -> Any:
    from contextlib import closing

    from mlxtune.measuring import measure
    from mlxtune.report.console import console

    with closing(console(json=json)) as report:
        return measure(recipe, report)


def _about(planner: Any, planned: Any) -> dict[str, Any]:
    parameters = sum(parameter.size for parameter in planned.setup.anatomy.parameters.values())
    rows = {"rows": len(planned.rows.lengths), "longest": max(planned.rows.lengths) + 1}
    found = {"parameters": parameters, "shapes_from": planner.outline.source, "largest_batch": rows}
    return {**found, "disk_bytes": planned.disk_bytes}


def _show(planner: Any, planned: Any, changes: Mapping[str, Any], limit_bytes: int) -> None:
    from mlxtune.memory.fit import as_flags
    from mlxtune.memory.guard import in_words
    from mlxtune.memory.readings import now
    from mlxtune.report.memory import show
    from mlxtune.words import count, size

    about, recipe = _about(planner, planned), planned.recipe
    free = now()
    system = "" if free.available is None else f"; {size(free.available)} of its {size(free.total or 0)} are free now"
    said = [
        ("model", f"{recipe.model.name or 'tiny'}, {count(about['parameters'])} parameters ({about['shapes_from']})"),
        ("strategy", planned.setup.selection.words),
        ("computes", f"{planner.backend}, {recipe.backend.precision}"),
        ("largest batch", in_words(planned.rows)),
        ("machine", f"{size(planner.machine.limit_bytes)} for a run{system}"),
    ]
    if planned.disk_bytes:
        said.append(("on the disk", f"{size(planned.disk_bytes)}, the frozen layers' output"))
    if changes:
        said.append(("fits with", as_flags(changes)))
    show(planned.plan, limit_bytes, said, planner.savings(recipe)[:3], planner.notes)
