"""What a person sees: the choice of report, the table after several recipes, and how an error looks."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mlxtune.errors import Faults
from mlxtune.events import End
from mlxtune.format import UNKNOWN, count, decimals, duration, line, printable, size
from mlxtune.report.base import Report
from mlxtune.report.live import Screen
from mlxtune.report.plain import Plain
from mlxtune.report.style import BAD, QUIET, STATUS, folded

_UNBOUNDED = 10_000  # columns: a pipe has no width to wrap at


def console(*, json: bool = False, stream: TextIO | None = None) -> Report:
    """The live panel in a terminal, plain lines in a pipe.

    With json it speaks on standard error, for standard output then holds one document and nothing else.
    """
    stream = stream or (sys.stderr if json else sys.stdout)
    return Screen(terminal(stream)) if draws(stream) else Plain(stream)


class Terminal(Console):
    """A rich console that writes the control characters of any text out: it alone commands the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def terminal(stream: TextIO) -> Console:
    """A console that colours nothing but a terminal, and guesses at no markup in what it prints."""
    is_terminal = stream.isatty()
    width = None if is_terminal else _UNBOUNDED
    return Terminal(file=stream, force_terminal=is_terminal, width=width, highlight=False, markup=False, emoji=False)


def draws(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can show a panel."""
    utf8 = (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"
    return stream.isatty() and utf8 and os.environ.get("TERM") not in (None, "", "dumb", "unknown")


def error(fault: BaseException, stream: TextIO | None = None) -> None:
    """Print what was expected, found and to be done, under one `error:` for each fault; never a traceback."""
    screen = terminal(stream or sys.stderr)
    for message in fault.told if isinstance(fault, Faults) else (str(fault) or type(fault).__name__,):
        first, *rest = message.splitlines()
        said = folded(line(first), screen, indent=len("error: ")).lstrip()
        screen.print(Text.assemble(("error: ", f"bold {BAD}"), (said, BAD)), soft_wrap=True)
        for remedy in rest:
            screen.print(Text(folded(line(remedy.removeprefix("  ")), screen, indent=len("error: "))), soft_wrap=True)


def recipes_table(results: Sequence[tuple[str, End | None]], stream: TextIO | None = None) -> None:
    """One row a recipe that ran, in order; None is a recipe that failed before it had an end."""
    table = Table(box=None, pad_edge=False, header_style=QUIET, padding=(0, 2, 0, 0))
    for heading in ("recipe", "status"):
        table.add_column(heading, overflow="fold")
    for heading in ("steps", "final loss", "best validation", "peak memory", "time"):
        table.add_column(heading, justify="right")
    table.add_column("run", overflow="fold")
    for recipe, end in results:
        table.add_row(Text(line(recipe)), *_result(end))
    terminal(stream or sys.stdout).print(table)


def _result(end: End | None) -> list[Text]:
    if end is None:
        return [Text("failed", style=BAD), *(Text(UNKNOWN) for _ in range(6))]
    return [
        Text(end.status, style=STATUS.get(end.status, "")),
        Text(count(end.steps)),
        Text(decimals(end.final_loss)),
        Text(decimals(end.best_eval_loss)),
        Text(size(end.peak_memory_bytes)),
        Text(duration(end.wall_seconds)),
        Text(line(end.run)),
    ]
