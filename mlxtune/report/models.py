"""The answer of `mlxtune models`: presets, aliases, and what the cache holds, as tables or as JSON."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps

from rich.table import Table

from mlxtune.models.aliases import ALIASES, TINY
from mlxtune.models.cache import CachedModel
from mlxtune.report.console import terminal
from mlxtune.words import UNKNOWN, line, size


def as_json(cached: Sequence[CachedModel]) -> str:
    """One document: {"presets": [name], "aliases": {name: hub id}, "cached": [{"repo", "bytes", "complete"}]}."""
    return dumps({"presets": [TINY], "aliases": dict(ALIASES), "cached": [asdict(model) for model in cached]}, indent=1)


def show(cached: Sequence[CachedModel]) -> None:
    """Print the names that --model takes, and what of each is on this disk."""
    console = terminal(sys.stdout)
    console.print(_names({model.repo: model for model in cached}))
    others = [model for model in cached if model.repo not in ALIASES.values()]
    if others:
        console.print(_others(others))
    console.print("\nAny other hub id (ORGANISATION/NAME) or local folder in Hugging Face format will do too.")


def _names(on_disk: dict[str, CachedModel]) -> Table:
    table = _table("name", "model", "on this disk")
    table.add_row(TINY, "built in, for a first try", "comes with mlxtune")
    for alias, repo in ALIASES.items():
        table.add_row(alias, repo, _words(on_disk.get(repo)))
    return table


def _others(models: Sequence[CachedModel]) -> Table:
    table = _table("\nalso in the cache", "\non this disk")
    for model in models:
        table.add_row(line(model.repo), _words(model))
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _words(model: CachedModel | None) -> str:
    """Size on disk, and whether something is missing.

    >>> _words(CachedModel("a/b", 2_471_645_608, complete=True)), _words(CachedModel("a/b", 84_000_000, complete=False))
    ('2.5 GB', '84.0 MB, not complete')
    """
    if model is None:
        return UNKNOWN
    return size(model.bytes) if model.complete else f"{size(model.bytes)}, not complete"
