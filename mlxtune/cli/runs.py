"""What `train` and `run` share: one run with its report, or its plan."""

from contextlib import closing
from pathlib import Path
from typing import Any

import typer

from mlxtune.events import End, as_json
from mlxtune.recipe import Recipe, as_tree


def run_one(recipe: Recipe, resume: str, *, json: bool) -> None:
    """Run, print, and end with the run's exit code."""
    from mlxtune import run
    from mlxtune.report.console import console

    with closing(console(json=json)) as report:
        end = run.start(recipe, [report], resume)
    finish(end, json=json)


def go_on(folder: Path, overrides: dict[str, Any], *, json: bool) -> None:
    """Resume the run in a folder, print, and end with its exit code."""
    from mlxtune import run
    from mlxtune.report.console import console

    with closing(console(json=json)) as report:
        end = run.resume(folder, overrides, [report])
    finish(end, json=json)


def finish(end: End, *, json: bool) -> None:
    """The closing document, and the exit code."""
    if json:
        print_json(as_json(end))
    raise typer.Exit(end.exit_code)


def plan(recipe: Recipe, *, json: bool) -> dict[str, Any]:
    """Check everything; the plan, which is shown but for JSON. Reads no weights and writes nothing."""
    from mlxtune.engine import Progress
    from mlxtune.prepare import prepare, start_event
    from mlxtune.recipe import as_yaml
    from mlxtune.report.console import console
    from mlxtune.run_folder import default_folder

    folder = recipe.run.out or str(default_folder(recipe))
    with closing(console(json=json)) as report:
        start = start_event(prepare(recipe, report), folder, Progress())
        if not json:
            report(start)
    if not json:
        typer.echo(as_yaml(recipe))
    return {"plan": as_json(start), "recipe": as_tree(recipe)}


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on standard output, in any encoding; numbers that are not finite are null."""
    import json
    import math

    from mlxtune.cli.streams import takes_any_text

    finite = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in document.items()}
    print(json.dumps(finite, ensure_ascii=not takes_any_text()))
