"""The few colours and shapes that all of the screen shares."""

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mlxtune.report.facts import Fact

ACCENT, GOOD, WARN, BAD, QUIET = "cyan", "green", "yellow", "red", "bright_black"
STATUS = {"done": GOOD, "patience": GOOD, "interrupted": WARN, "stopped": BAD, "diverged": BAD}
MAX_WIDTH = 100  # columns; wider lines are harder to read, not easier
BORDERS = 4  # columns that a panel's frame and padding take


def framed(body: RenderableType, title: str, style: str, width: int) -> Panel:
    """A panel of the house: quiet border, a title at the left."""
    heading = Text(title, style=f"bold {style}")
    return Panel(
        body,
        title=heading,
        title_align="left",
        width=min(width, MAX_WIDTH),
        box=box.ROUNDED,
        border_style=QUIET,
        padding=(0, 1),
    )


def grid(said: Sequence[Fact]) -> Table:
    """Names at the left, texts beside them."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style=QUIET, no_wrap=True, min_width=10)
    table.add_column(overflow="fold")
    for fact in said:
        note = fact.name == "note"
        table.add_row(Text(fact.name, style=WARN if note else ""), Text(fact.text))
    return table


def folded(text: str, console: Console, indent: int = 0) -> str:
    """A sentence in the width of a terminal, folded between words; a path and a command stay whole, to be copied.

    indent: columns before each line. A pipe has no width to fold at.
    """
    margin = " " * indent
    if not console.is_terminal or text.lstrip().startswith("mlxtune "):
        return margin + text
    lines = textwrap.wrap(text, max(20, console.width - indent), break_long_words=False, break_on_hyphens=False)
    return "\n".join(margin + each for each in lines)
