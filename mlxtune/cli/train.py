"""`mlxtune train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.cli.options import recipe_options
from mlxtune.errors import BadSetting

EXAMPLES = """Fine-tune a model and leave a run folder.

[dim]Examples[/dim]

  mlxtune train                                  [dim]the built-in tiny model and rows[/dim]

  mlxtune train --model dolphin-8b --data rows.jsonl --max-steps 1000

  mlxtune train --model llama-3.2-1b --data rows.jsonl --strategy lora --rank 16

  mlxtune train --resume runs/dolphin-8b-last-n  [dim]go on with a run that was stopped[/dim]
"""


@recipe_options
def train(
    overrides: dict[str, Any],
    recipe: Annotated[Path | None, typer.Option("--recipe", help="YAML file of settings; flags win over it.")] = None,
    resume: Annotated[str, typer.Option(help="auto: go on with the run in --out; never; or a run folder.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    from mlxtune.cli.runs import go_on, plan, print_json, run_one
    from mlxtune.recipe import build, read

    if resume not in ("auto", "never"):
        _refuse_beside_a_folder(resume, {"--recipe": recipe, "--dry-run": dry_run, "--out": overrides.get("run.out")})
        go_on(Path(resume), overrides, json=json)
        return
    built = build(read(recipe) if recipe else {}, overrides, str(recipe or ""))
    if not dry_run:
        run_one(built, resume, json=json)
        return
    document = plan(built, json=json)
    if json:
        print_json(document)


train.__doc__ = EXAMPLES


def _refuse_beside_a_folder(folder: str, given: dict[str, object]) -> None:
    """A run that goes on has its recipe and its folder: options that would be ignored are refused."""
    idle = [flag for flag, value in given.items() if value]
    if idle:
        remedy = f"--resume {folder} goes on under the recipe in that folder."
        raise BadSetting(
            "--resume", expected="none of --recipe, --dry-run, --out", found=", ".join(idle), remedy=remedy
        )
