"""`mlxtune train`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxtune.cli.options import recipe_options
from mlxtune.errors import BadSetting
from mlxtune.run.signals import BEFORE_THE_FIRST_STEP, ending_at_once

if TYPE_CHECKING:
    from mlxtune.recipe.recipe import Recipe

EXAMPLES = """Fine-tune a model and leave a run folder.

[dim]Examples[/dim]

  mlxtune train                                  [dim]the built-in tiny model and rows[/dim]

  mlxtune train --model dolphin-8b --data rows.jsonl --max-steps 1000

  mlxtune train --model llama-3.2-1b --data rows.jsonl --strategy lora --rank 16

  mlxtune train --resume runs/dolphin-8b-last-n  [dim]go on with a run that was stopped[/dim]
"""


@recipe_options
@ending_at_once(BEFORE_THE_FIRST_STEP)
def train(
    overrides: dict[str, Any],
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML file of settings; flags win over it.")] = None,
    resume: Annotated[str, typer.Option(help="auto: go on with the run in --out; never; or a run folder.")] = "auto",
    fit: Annotated[
        str | None,
        typer.Option("--fit", metavar="[BYTES]", help="Train with settings that fit: 24GB, or what is free here."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    from mlxtune.cli.fitting import fitted
    from mlxtune.cli.runs import go_on, plan, print_json, run_one
    from mlxtune.memory.fit import as_flags
    from mlxtune.planning.predict import Planner

    if resume not in ("auto", "never"):
        own = {"--recipe": recipe, "--dry-run": dry_run, "--fit": fit, "--out": overrides.get("run.out")}
        _refuse_beside_a_folder(resume, own)
        go_on(Path(resume), overrides, json=json)
        return
    wanted = built(recipe, overrides)
    if fit is not None:
        found = fitted(Planner(wanted, as_a_run=True), fit)
        wanted = replace(found.recipe, backend=replace(found.recipe.backend, memory_limit_bytes=found.limit_bytes))
        lost = f", which leaves out {found.lost}" if found.lost else ""
        typer.echo(f"fits with: {as_flags(found.changes) or 'the settings as they are'}{lost}", err=True)
    if not dry_run:
        run_one(wanted, resume, json=json)
        return
    document = plan(wanted, json=json)
    if json:
        print_json(document)


train.__doc__ = EXAMPLES


def built(path: Path | str | None, overrides: dict[str, Any]) -> "Recipe":
    """The recipe of a file, or of the built-in job, with the flags on top."""
    from mlxtune.report.waiting import doing

    with doing("reading the settings"):
        from mlxtune.recipe import first_job
        from mlxtune.recipe.recipe import build, read

        return build(read(Path(path)) if path else first_job.settings(overrides), overrides, str(path or ""))


def _refuse_beside_a_folder(folder: str, given: dict[str, object]) -> None:
    """A run that goes on has its recipe and its folder: options that would be ignored are refused."""
    idle = [flag for flag, value in given.items() if value]
    if idle:
        remedy = f"--resume {folder} goes on under the recipe in that folder."
        raise BadSetting(
            "--resume", expected="none of --recipe, --dry-run, --fit, --out", found=", ".join(idle), remedy=remedy
        )
