"""The panels before and after a run, and the few styles that all of the screen shares."""

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mlxtune.events import End, Start
from mlxtune.report import facts

ACCENT, GOOD, WARN, BAD, QUIET = "cyan", "green", "yellow", "red", "bright_black"
MAX_WIDTH = 100  # columns; wider lines are harder to read, not easier
FULL_TABLE = 78  # columns that the table of what trains takes lying down; in fewer it stands
STATUS_STYLE = {"done": GOOD, "patience": GOOD, "interrupted": WARN, "stopped": BAD}


def opening(start: Start, width: int) -> RenderableType:
    """What is about to run."""
    said = facts.opening(start)
    body: list[RenderableType] = [grid(said[:3]), Text(), _anatomy(start, width), Text(), grid(said[3:])]
    return framed(Group(*body), "mlxtune", ACCENT, width)


def ending(end: End, width: int) -> RenderableType:
    """What came of it."""
    title, style = facts.STATUS.get(end.status, end.status), STATUS_STYLE.get(end.status, WARN)
    return framed(grid(facts.ending(end)), title, style, width)


def framed(body: RenderableType, title: str, style: str, width: int) -> Panel:
    """A panel of the house: quiet border, a title at the left."""
    heading = Text(f" {title} ", style=f"bold {style}")
    return Panel(
        body,
        title=heading,
        title_align="left",
        width=min(width, MAX_WIDTH),
        box=box.ROUNDED,
        border_style=QUIET,
        padding=(0, 1),
    )


def grid(said: Sequence[facts.Fact]) -> Table:
    """Names at the left, texts beside them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style=QUIET, no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    for fact in said:
        note = fact.name == "note"
        table.add_row(Text(fact.name, style=WARN if note else ""), Text(fact.text))
    return table


def _anatomy(start: Start, width: int) -> Table:
    rows = facts.anatomy(start)
    if width < FULL_TABLE:
        rows = list(zip(*rows, strict=True))
    headings, *body = rows
    table = Table.grid(padding=(0, 2))
    for place in range(len(headings)):
        table.add_column(justify="right" if place else "left", no_wrap=True, min_width=0 if place else 10)
    table.add_row(*(Text(heading, style=QUIET) for heading in headings))
    for row in body:
        table.add_row(Text(row[0], style=QUIET), *map(Text, row[1:]))
    return table
