"""`mlxtune run`: recipe files in turn."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.errors import MlxtuneError
from mlxtune.events import End


def run(
    recipes: Annotated[list[Path] | None, typer.Argument(metavar="RECIPE...", help="YAML recipe files.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, in every recipe.")] = None,
    from_mlx_lm: Annotated[
        Path | None, typer.Option(help="A YAML file of mlx_lm.lora; every key is mapped or refused.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Run recipe files in turn. One that fails does not stop the next; the exit code is the first failure's.

    [dim]Examples[/dim]

      mlxtune run recipes/demo.yaml

      mlxtune run a.yaml b.yaml --set train.max_steps=10

      mlxtune run --from-mlx-lm lora_config.yaml
    """
    from mlxtune.cli.runs import print_json
    from mlxtune.events import as_json
    from mlxtune.recipe import parse_changes
    from mlxtune.report.console import recipes_table

    paths = [*(recipes or []), *([from_mlx_lm] if from_mlx_lm else [])]
    if not paths:
        raise typer.BadParameter("name at least one recipe file", param_hint="RECIPE...")
    overrides = parse_changes(changes or [])
    results = [(str(path), *_one(path, overrides, foreign=path is from_mlx_lm, json=json)) for path in paths]
    if json:
        rows = [{"recipe": name, "exit_code": code, **(as_json(end) if end else {})} for name, end, code in results]
        print_json({"recipes": rows})
    elif len(results) > 1:
        recipes_table([(name, end) for name, end, _ in results])
    raise typer.Exit(next((code for _, _, code in results if code), 0))


def _one(path: Path, overrides: dict[str, object], *, foreign: bool, json: bool) -> tuple[End | None, int]:
    """The run's end, or None where it had none, and its exit code."""
    from mlxtune import run as runs
    from mlxtune.recipe import build, read
    from mlxtune.report.console import console, error

    try:
        recipe = build(_translated(path) if foreign else read(path), overrides, str(path))
        with closing(console(json=json)) as report:
            end = runs.start(recipe, [report])
    except MlxtuneError as fault:
        error(fault)
        return None, fault.exit_code
    return end, end.exit_code


def _translated(path: Path) -> dict[str, dict[str, object]]:
    """The recipe of an mlx-lm file; what differs in meaning is said on standard error."""
    from mlxtune.from_mlx_lm import translate
    from mlxtune.strict_yaml import load_yaml

    recipe, notes = translate(load_yaml(path))
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    return recipe
