"""`mlxtune bench`: speed, memory and losses beside mlx-lm's trainer."""

from typing import Annotated, Literal

import typer


def bench(
    case: Annotated[list[str] | None, typer.Option(help="Name of a case; repeatable. Default: all.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Trainings of each side and case.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the BLAS, on a processor.")] = 1,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Of weights and computation.")] = "fp32",
    techniques: Annotated[
        bool, typer.Option("--techniques", help="The first case with each technique alone, then added up.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Compare with mlx-lm's trainer. The same model, rows and order, each training in a process of its own, in turn.

    Cases: last-2-head, last-2, last-4-head, lora-4, even, lora-all. On one core all of them take
    most of an hour.

    Examples: `mlxtune bench --case last-2 --repeats 1`, `mlxtune bench --techniques`, `mlxtune bench --json`
    """
    from mlxtune.bench.compare import Settings
    from mlxtune.bench.run import document, lines
    from mlxtune.cli.runs import print_json

    names, settings = case or [], Settings(repeats, threads, precision)
    if json:
        print_json(document(names, settings, _tell, techniques=techniques))
        return
    for line in lines(names, settings, _tell, techniques=techniques):
        print(line, flush=True)


def _tell(progress: str) -> None:
    typer.echo(progress, err=True)
