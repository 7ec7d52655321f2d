"""`mlxtune doctor`: what this machine has and what will go wrong on it."""

from typing import Annotated

import typer


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """Say what this machine has and what will go wrong on it. Takes some seconds, changes nothing, exits with 0.

    Examples: `mlxtune doctor`, `mlxtune doctor --json`
    """
    from mlxtune.report.waiting import doing

    with doing("looking at this machine, its backends and the hub"):
        from mlxtune.doctor.examine import examine
        from mlxtune.report.doctor import as_json, show

        checks = examine()
    print(as_json(checks)) if json else show(checks)
