"""`mlxtune models`: the names that --model takes, and what is in the local cache."""

from typing import Annotated

import typer


def models(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")] = False,
) -> None:
    """List model names and the local cache. The names are what --model takes.

    Examples: `mlxtune models`, `mlxtune models --json`
    """
    from mlxtune.models.cache import cached_models
    from mlxtune.report.models import as_json, show

    cached = cached_models()
    if json:
        print(as_json(cached))
    else:
        show(cached)
