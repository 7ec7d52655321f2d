"""The answer of `mlxtune models`: presets, aliases, and what the cache holds, as tables or as JSON."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from json import dumps

from rich.table import Table

from mlxtune.format import UNKNOWN, line, size
from mlxtune.models import published
from mlxtune.models.aliases import ALIASES, TINY
from mlxtune.models.cache import CachedModel
from mlxtune.report.console import terminal


def as_json(cached: Sequence[CachedModel]) -> str:
    """One document: {"presets": [name], "aliases": {name: hub id}, "sizes": {name: {"parameters", "context", ...}},
    "cached": [{"repo", "bytes", "complete"}]}."""
    document = {"presets": [TINY], "aliases": dict(ALIASES), "sizes": {name: _sizes(ALIASES[name]) for name in ALIASES}}
    return dumps({**document, "cached": [asdict(model) for model in cached]}, indent=1)


def _sizes(repo: str) -> dict[str, int]:
    """What is known of a model without the hub."""
    found = published.config(repo)
    if found is None:
        return {}
    sizes = {"layers": found.n_layers, "hidden_size": found.hidden_size, "vocab_size": found.vocab_size}
    return {"parameters": published.n_parameters(repo) or 0, "context": found.max_positions, **sizes}


def show(cached: Sequence[CachedModel]) -> None:
    """Print the names that --model takes, and what of each is on this disk."""
    console = terminal(sys.stdout)
    console.print(_names({model.repo: model for model in cached}))
    others = [model for model in cached if model.repo not in ALIASES.values()]
    if others:
        console.print(_others(others))
    console.print("\nAny other hub id (ORGANISATION/NAME) or local folder in Hugging Face format will do too.")


def _names(on_disk: dict[str, CachedModel]) -> Table:
    table = _table("name", "model", "size", "on this disk")
    table.add_row(TINY, "built in, for a first try", "0.5M", "comes with mlxtune")
    for alias, repo in ALIASES.items():
        table.add_row(alias, repo, _short(published.n_parameters(repo) or 0), _words(on_disk.get(repo)))
    return table


def _short(n_parameters: int) -> str:
    """Parameters, as a model's name has them.

    >>> _short(8_030_261_248), _short(134_515_008), _short(0)
    ('8.0B', '135M', '-')
    """
    if not n_parameters:
        return UNKNOWN
    return f"{n_parameters / 1e9:.1f}B" if n_parameters >= 999_500_000 else f"{n_parameters / 1e6:.0f}M"


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
