"""`mlxtune memory`: how much a run will take, and for what."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxtune.cli.options import recipe_options
from mlxtune.errors import BadSetting

if TYPE_CHECKING:
    from mlxtune.cli.fitting import Fitted

EXAMPLES = """Say how much memory a run will take, and for what. No weights are read or fetched.

[dim]Examples[/dim]

  mlxtune memory                                   [dim]this machine, and the built-in run on it[/dim]

  mlxtune memory --model llama-3-8b --batch-size 1 --max-seq-length 2048

  mlxtune memory --model llama-3-8b --data rows.jsonl --fit 24GB   [dim]settings that fit, as flags[/dim]

  mlxtune memory --model llama-3-8b --for mac --fit 16GB           [dim]the same for a Mac, from any machine[/dim]

  mlxtune memory --model llama-3.2-1b --data rows.jsonl --measure  [dim]three real steps beside the plan[/dim]
"""


@recipe_options
def memory(
    overrides: dict[str, Any],
    recipe: Annotated[str | None, typer.Option("--recipe", help="YAML file of settings; flags win over it.")] = None,
    fit: Annotated[
        str | None, typer.Option("--fit", metavar="[BYTES]", help="Find settings that fit: 24GB, or what is free here.")
    ] = None,
    machine: Annotated[
        str,
        typer.Option("--for", metavar="here|mac", help="Where it would run; --fit is then the memory of the Mac."),
    ] = "here",
    measure: Annotated[bool, typer.Option("--measure", help="Load the model and make three steps beside it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    from mlxtune.cli.fitting import fitted
    from mlxtune.cli.runs import print_json
    from mlxtune.cli.train import built
    from mlxtune.memory.plan import as_json
    from mlxtune.planning.predict import Planner
    from mlxtune.report.waiting import doing

    _check_machine(machine, measure=measure)
    wanted = built(recipe, overrides)
    with doing("planning"):
        planner = Planner(wanted, for_mac=machine == "mac")
        found = None if fit is None else fitted(planner, fit)
        planned = planner.plan(found.recipe if found else planner.recipe)
    limit_bytes = found.limit_bytes if found else planner.limit_bytes
    measured = _measured(planned.recipe, json=json) if measure else None
    about = _about(planner, planned, found)
    if json:
        print_json({**as_json(planned.plan, limit_bytes, measured and measured.peak_bytes), **about})
        return
    _show(planner, planned, about, limit_bytes)
    if measured is not None:
        from mlxtune.report.memory import show_measured

        show_measured(measured.parts, measured.ratio)


memory.__doc__ = EXAMPLES


def _measured(recipe: Any, *, json: bool) -> Any:
    from contextlib import closing

    from mlxtune.report.console import console
    from mlxtune.run.measure import measure

    with closing(console(json=json)) as report:
        return measure(recipe, report)


def _check_machine(machine: str, *, measure: bool) -> None:
    if machine not in ("here", "mac"):
        raise BadSetting("--for", expected="here or mac", found=repr(machine))
    if measure and machine != "here":
        raise BadSetting(
            "--measure", expected="this machine", found=f"--for {machine}", remedy="Leave one of them out."
        )


def _about(planner: Any, planned: Any, found: "Fitted | None") -> dict[str, Any]:
    """What the document says besides the plan."""
    from mlxtune.memory import macs

    return {
        "parameters": sum(parameter.size for parameter in planned.setup.anatomy.parameters.values()),
        "shapes_from": planner.outline.source,
        "backend": planner.backend,
        "largest_batch": {"rows": len(planned.rows.lengths), "longest": max(planned.rows.lengths) + 1},
        "disk_bytes": planned.disk_bytes,
        "changes": dict(found.changes) if found else {},
        "left_out": found.lost if found else "",
        "for": "mac" if planner.for_mac else "here",
        "smallest_mac_gib": macs.smallest(planned.plan.peak_bytes) if planner.backend == "mlx" else None,
        "notes": list(planner.notes),
    }


def _show(planner: Any, planned: Any, about: dict[str, Any], limit_bytes: int) -> None:
    from mlxtune.format import count, size
    from mlxtune.memory.fit import as_flags
    from mlxtune.memory.guard import in_words
    from mlxtune.report.memory import show

    recipe = planned.recipe
    said = [
        ("model", f"{recipe.model.name or 'tiny'}, {count(about['parameters'])} parameters ({about['shapes_from']})"),
        ("strategy", planned.setup.selection.words),
        ("computes", f"{planner.backend}, {recipe.backend.precision}"),
        ("largest batch", in_words(planned.rows)),
        ("machine", _a_mac(about, limit_bytes) if planner.for_mac else _this_machine(planner)),
    ]
    if planned.disk_bytes:
        said.append(("on the disk", f"{size(planned.disk_bytes)}, the frozen layers' output"))
    if about["changes"]:
        said.append(("fits with", as_flags(about["changes"])))
    if about["left_out"]:
        said.append(("left out", about["left_out"]))
    show(planned.plan, limit_bytes, said, planner.savings(recipe)[:3], planner.notes)


def _this_machine(planner: Any) -> str:
    from mlxtune.format import size
    from mlxtune.memory.readings import now

    free = now()
    system = "" if free.available is None else f"; {size(free.available)} of its {size(free.total or 0)} are free now"
    return f"{size(planner.machine.limit_bytes)} for a run{system}"


def _a_mac(about: dict[str, Any], limit_bytes: int) -> str:
    from mlxtune.format import size

    if limit_bytes:
        return f"a Mac whose GPU may have {size(limit_bytes)} of its memory"
    gib = about["smallest_mac_gib"]
    return f"a Mac with {gib} GB of memory or more" if gib else "no Mac has so much memory"
