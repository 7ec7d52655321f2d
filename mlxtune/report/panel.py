"""The panels before and after a run."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mlxtune.events import End, Start
from mlxtune.report import facts
from mlxtune.report.chart import loss_chart
from mlxtune.report.style import ACCENT, BORDERS, MAX_WIDTH, QUIET, STATUS, WARN, framed, grid
from mlxtune.report.tally import Tally

FULL_TABLE = 78  # columns that the table of what trains takes lying down; in fewer it stands
STANDING_TABLE = 60  # in fewer still it goes without the totals


def opening(start: Start, width: int) -> RenderableType:
    """What is about to run."""
    said = facts.opening(start)
    body: list[RenderableType] = [grid(said[:3]), Text(), _anatomy(start, width), Text(), grid(said[3:])]
    return framed(Group(*body), "mlxtune", ACCENT, width)


def ending(tally: Tally, end: End, width: int) -> RenderableType:
    """What came of it: the whole curve and the numbers that count."""
    title, style = facts.STATUS.get(end.status, end.status), STATUS.get(end.status, WARN)
    chart = loss_chart(tally, min(width, MAX_WIDTH) - BORDERS, height=8)
    return framed(Group(*chart, *([Text()] if chart else []), grid(facts.ending(end))), title, style, width)


def _anatomy(start: Start, width: int) -> Table:
    rows = facts.anatomy(start)
    if width < FULL_TABLE:
        rows = list(zip(*rows[: 4 if width >= STANDING_TABLE else 3], strict=True))
    headings, *body = rows
    table = Table.grid(padding=(0, 2))
    for place in range(len(headings)):
        table.add_column(justify="right" if place else "left", no_wrap=True, min_width=0 if place else 10)
    table.add_row(*(Text(heading, style=QUIET) for heading in headings))
    for row in body:
        table.add_row(Text(row[0], style=QUIET), *map(Text, row[1:]))
    return table
