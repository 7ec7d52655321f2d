"""`mlxtune run`: recipe files in turn."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from mlxtune.cli.naming import naming
from mlxtune.errors import BadSetting, MlxtuneError
from mlxtune.events import End
from mlxtune.format import line
from mlxtune.run.signals import BEFORE_THE_FIRST_STEP, ending_at_once


class Found(NamedTuple):
    """What became of a recipe file: an end, or with --dry-run a plan, or neither where it was refused."""

    recipe: str
    exit_code: int
    end: End | None = None
    plan: dict[str, Any] | None = None


@ending_at_once(BEFORE_THE_FIRST_STEP)
def run(
    recipes: Annotated[list[Path] | None, typer.Argument(metavar="RECIPE...", help="YAML recipe files.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, in every recipe.")] = None,
    data: Annotated[str | None, typer.Option(help="Path, URL or hub data set, for every recipe.")] = None,
    from_mlx_lm: Annotated[
        Path | None, typer.Option(help="A YAML file of mlx_lm.lora; every key is mapped or refused.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every recipe, show its plan, do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Run recipe files in turn. One that fails does not stop the next; the exit code is the first failure's.

    One that is interrupted stops all.

    [dim]Examples[/dim]

      mlxtune run recipes/demo.yaml

      mlxtune run a.yaml b.yaml --set train.max_steps=10

      mlxtune run recipes/*.yaml --data rows.jsonl --dry-run

      mlxtune run --from-mlx-lm lora_config.yaml
    """
    from mlxtune.cli.runs import print_json
    from mlxtune.recipe.recipe import parse_changes
    from mlxtune.report.console import recipes_table

    paths = _paths(recipes, from_mlx_lm)
    overrides = parse_changes(changes or []) | ({} if data is None else {"data.path": data})
    found: list[Found] = []
    for path in paths:
        found.append(_one(path, overrides, foreign=path is from_mlx_lm, dry_run=dry_run, json=json))
        if (end := found[-1].end) is not None and end.status == "interrupted":
            break
    if json:
        print_json({"recipes": [_document(each) for each in found]})
    elif len(found) > 1 and not dry_run:
        recipes_table([(each.recipe, each.end) for each in found])
    raise typer.Exit(next((each.exit_code for each in found if each.exit_code), 0))


def _paths(recipes: list[Path] | None, from_mlx_lm: Path | None) -> list[Path]:
    paths = [*(recipes or []), *([from_mlx_lm] if from_mlx_lm else [])]
    if not paths:
        raise BadSetting("mlxtune run", expected="a recipe file at least", found="none", remedy="mlxtune run demo.yaml")
    return paths


def _one(path: Path, overrides: dict[str, object], *, foreign: bool, dry_run: bool, json: bool) -> Found:
    """Run a recipe or check it. Its error is told here, so that the next has its turn."""
    from mlxtune.cli.runs import plan
    from mlxtune.front import train
    from mlxtune.recipe.recipe import build, read
    from mlxtune.report.console import console, error

    if dry_run and not json:
        print(f"# {line(str(path))}")
    try:
        with naming(overrides, path, by_set=True):
            recipe = build(_translated(path) if foreign else read(path), overrides, str(path))
            if dry_run:
                return Found(str(path), 0, plan=plan(recipe, json=json))
            with closing(console(json=json)) as report:
                end = train(recipe, [report])
    except MlxtuneError as fault:
        error(fault)
        return Found(str(path), fault.exit_code)
    return Found(str(path), end.exit_code, end)


def _document(found: Found) -> dict[str, Any]:
    from mlxtune.events import as_json

    document = {"recipe": found.recipe, "exit_code": found.exit_code}
    if found.plan:
        return {**document, "plan": found.plan["plan"], "settings": found.plan["recipe"]}
    return {**document, **(as_json(found.end) if found.end else {})}


def _translated(path: Path) -> dict[str, dict[str, object]]:
    """The recipe of an mlx-lm file; what differs in meaning is said on standard error."""
    from mlxtune.recipe.from_mlx_lm import translate
    from mlxtune.storage.strict_yaml import load_yaml

    recipe, notes = translate(load_yaml(path))
    for note in notes:
        print(f"note: {line(note)}", file=sys.stderr)
    return recipe
