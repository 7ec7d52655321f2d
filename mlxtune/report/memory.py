"""Draws the plan of a run's memory: a bar for each part, the sum, the limit, and what would save most."""

import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from mlxtune.format import line, share, size
from mlxtune.memory.plan import Plan
from mlxtune.report.console import terminal
from mlxtune.report.style import ACCENT, BAD, GOOD, QUIET, WARN, folded

COLUMNS = 40  # of the longest bar
NEAR = 0.9  # of the limit


def show(
    plan: Plan,
    limit_bytes: int,
    about: Sequence[tuple[str, str]],
    savings: Sequence[tuple[str, int]],
    notes: Sequence[str],
) -> None:
    """Print everything. about: names and texts that come first."""
    console = terminal(sys.stdout)
    console.print(_pairs(about))
    console.print()
    console.print(_parts(plan))
    console.print()
    console.print(_verdict(plan, limit_bytes))
    if savings:
        console.print(Text("\nWhat would save most:", style=QUIET))
        console.print(_pairs([(f"  {flags}", f"saves {size(n_bytes)}") for flags, n_bytes in savings]))
    for note in notes:
        console.print(Text(folded(note, console), style=WARN), soft_wrap=True)


def show_measured(parts: Sequence[tuple[str, int, int]], ratio: float) -> None:
    """Predicted beside measured."""
    table = Table.grid(padding=(0, 3))
    table.add_column()
    for _ in range(3):
        table.add_column(justify="right")
    table.add_row(*(Text(heading, style=QUIET) for heading in ("", "predicted", "measured", "off by")))
    for name, predicted, measured in parts:
        off = share(abs(predicted / measured - 1)) if measured > 0 else "-"
        table.add_row(name, size(predicted), size(max(0, measured)), off)
    console = terminal(sys.stdout)
    console.print()
    console.print(table)
    console.print(f"\nKept for later plans on this machine: measured is {ratio:.3f} of what was predicted.")


def _pairs(said: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=QUIET, no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in said:
        table.add_row(name, Text(line(text)))
    return table


def _parts(plan: Plan) -> Table:
    parts, whole = asdict(plan.parts), max(1, plan.parts.total)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    longest = max(parts.values())
    for name, n_bytes in parts.items():
        bar = Text("█" * max(1, round(COLUMNS * n_bytes / longest)) if n_bytes else "", style=ACCENT)
        part = f" {share(n_bytes / whole)}" if n_bytes else ""
        table.add_row(name.replace("_", " "), size(n_bytes), bar + Text(part, style=QUIET))
    table.add_row(
        Text("peak", style="bold"), Text(size(plan.parts.total), style="bold"), Text(plan.moment, style=QUIET)
    )
    if plan.factor != 1:
        table.add_row("as measured", size(plan.peak_bytes), Text(f"times {plan.factor:.3f}", style=QUIET))
    table.add_row("allocator's cache", size(plan.cache_bytes), Text("at most, beside the peak", style=QUIET))
    return table


def _verdict(plan: Plan, limit_bytes: int) -> Text:
    if not limit_bytes:
        return Text(f"Needs {size(plan.peak_bytes)}; there is no limit to compare it with.", style=WARN)
    part = plan.peak_bytes / limit_bytes
    said = f"{size(plan.peak_bytes)} of {size(limit_bytes)}, {share(part)}"
    if part > 1:
        return Text(f"Does not fit: {said}. `--fit` finds settings that do.", style=BAD)
    return Text(f"Fits: {said}.", style=GOOD if part < NEAR else WARN)
