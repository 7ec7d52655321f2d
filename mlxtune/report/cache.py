"""The answer of `mlxtune cache`, as a table or as JSON."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from mlxtune.format import counted, line, size
from mlxtune.report.console import terminal
from mlxtune.storage.cache import WORDS, Kept
from mlxtune.storage.files import cache_folder

DAY = 86_400


def as_json(found: Sequence[Kept]) -> dict[str, Any]:
    """{"folder", "bytes", "kept": [{"kind", "owner", "path", "bytes", "used"}]}; used in seconds since the epoch."""
    listed = [{**each._asdict(), "path": str(each.path)} for each in found]
    return {"folder": str(cache_folder()), "bytes": sum(each.bytes for each in found), "kept": listed}


def show(found: Sequence[Kept]) -> None:
    """Print what is kept, with what it takes and when it was used."""
    console = terminal(sys.stdout)
    if not found:
        console.print(f"Nothing is kept in {line(str(cache_folder()))}.", soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bright_black")
    for name, right in (("kept", False), ("of", False), ("takes", True), ("used", False)):
        table.add_column(name, justify="right" if right else "left", overflow="ellipsis", no_wrap=True)
    for each in _summed(found):
        table.add_row(WORDS[each.kind], line(each.owner), size(each.bytes), _ago(time.time() - each.used))
    console.print(table)
    total = size(sum(each.bytes for each in found))
    console.print(f"\n{total} in {line(str(cache_folder()))}. All of it can be made again:", soft_wrap=True)
    console.print("mlxtune cache clear, or mlxtune cache clear --older 30d", soft_wrap=True)


def show_cleared(gone: Sequence[Kept], left: Sequence[Kept]) -> None:
    """Print what was deleted, and what was not."""
    console = terminal(sys.stdout)
    n_bytes = sum(each.bytes for each in gone)
    console.print(f"Deleted {counted(len(gone), 'thing')}, {size(n_bytes)}." if gone else "Nothing to delete.")
    for each in left:
        why = "in use, or not to be deleted by this user"
        console.print(f"Left {line(str(each.path))}: {why}.", soft_wrap=True)


def _summed(found: Sequence[Kept]) -> list[Kept]:
    """One line for each owner of a kind, with what was used last."""
    groups: dict[tuple[str, str], Kept] = {}
    for each in found:
        before = groups.get((each.kind, each.owner))
        if before is not None:
            each = each._replace(bytes=each.bytes + before.bytes, used=max(each.used, before.used))
        groups[each.kind, each.owner] = each
    return list(groups.values())


def _ago(seconds: float) -> str:
    """How long ago, in words.

    >>> _ago(30), _ago(3 * 3600), _ago(2 * 86_400)
    ('just now', '3 hours ago', '2 days ago')
    """
    for name, length in (("day", DAY), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{counted(int(seconds // length), name)} ago"
    return "just now"
