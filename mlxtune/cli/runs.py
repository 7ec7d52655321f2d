"""What `train` and `run` share: one run with its report, or its plan."""

from contextlib import closing
from pathlib import Path
from typing import Any

import typer

from mlxtune.events import End, as_json
from mlxtune.format import size
from mlxtune.recipe.recipe import Recipe, shown_tree


def run_one(recipe: Recipe, resume: str, *, json: bool) -> None:
    """Run, print, and end with the run's exit code."""
    from mlxtune.front import train
    from mlxtune.report.console import console

    with closing(console(json=json)) as report:
        end = train(recipe, [report], resume=resume)
    finish(end, json=json)


def go_on(folder: Path, overrides: dict[str, Any], *, json: bool) -> None:
    """Resume the run in a folder, print, and end with its exit code."""
    from mlxtune.report.console import console
    from mlxtune.run import session as run

    with closing(console(json=json)) as report:
        end = run.resume(folder, overrides, [report])
    finish(end, json=json)


def finish(end: End, *, json: bool) -> None:
    """The closing document, and the exit code."""
    if json:
        print_json(as_json(end))
    raise typer.Exit(end.exit_code)


def plan(recipe: Recipe, *, json: bool) -> dict[str, Any]:
    """Check everything; the plan, which is shown but for JSON. Reads no weights, fetches none and writes nothing."""
    from mlxtune.models.hub import is_here
    from mlxtune.progress import Progress
    from mlxtune.report.console import console
    from mlxtune.run.folder import default_folder
    from mlxtune.run.prepare import prepare, start_event

    if not is_here(recipe.model.name, recipe.model.revision):
        return _plan_without_the_model(recipe, json=json)
    folder = recipe.run.out or str(default_folder(recipe))
    with closing(console(json=json)) as report:
        prepared = prepare(recipe, report)
        start = start_event(prepared, folder, Progress())
        if not json:
            report(start)
    return _planned(prepared.recipe, as_json(start), json=json)


def _plan_without_the_model(recipe: Recipe, *, json: bool) -> dict[str, Any]:
    """What can be checked while the model is on the hub: the settings, the rows as they are read, and the shapes."""
    from mlxtune.data import load as data
    from mlxtune.planning.predict import Planner

    data.check_rows(recipe.data, pairs=recipe.objective.rows_per_example > 1)
    planner = Planner(recipe, without_rows=True)
    planned = planner.plan(planner.recipe)
    said = {
        "model": str(recipe.model.name),
        "strategy": planned.setup.selection.words,
        "backend": planner.backend,
        "precision": recipe.backend.precision,
        "predicted_peak_bytes": planned.plan.peak_bytes,
        "note": UNCHECKED.format(recipe.model.name),
    }
    if not json:
        for name, text in said.items():
            typer.echo(f"{name.partition('_')[0]:<12}{size(text) if isinstance(text, int) else text}")
        typer.echo()
    return _planned(planned.recipe, said, json=json)


UNCHECKED = "{} is not on this disk, and nothing was fetched: tokens and weights are not checked."


def _planned(recipe: Recipe, said: dict[str, Any], *, json: bool) -> dict[str, Any]:
    from mlxtune.recipe.recipe import as_yaml

    if not json:
        typer.echo(as_yaml(recipe))
    return {"plan": said, "recipe": shown_tree(recipe)}


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on standard output, in any encoding; numbers that are not finite are null."""
    import json
    import math

    from mlxtune.cli.streams import takes_any_text

    finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in document.items()}
    print(json.dumps(finite, ensure_ascii=not takes_any_text()))
