"""One picture of a running job: progress, loss curve, numbers and memory, as far as the terminal has room."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mlxtune.report import plot, words
from mlxtune.report.panel import ACCENT, BAD, GOOD, MAX_WIDTH, QUIET, WARN, framed
from mlxtune.report.tally import Tally
from mlxtune.report.words import count, decimals, duration, rate, share, size

PLOT_ROWS = range(2, 9)  # fewer say nothing, more say no more
_BORDERS = 4  # columns that the panel's frame and padding take

Pair = tuple[str, Text]


def frame(tally: Tally, width: int, height: int, waited: float = 0.0) -> RenderableType:
    """The picture in at most `height` rows. waited: seconds since the last event."""
    inner = min(width, MAX_WIDTH) - _BORDERS
    progress, memory = _progress(tally, inner, waited), _memory(tally, inner)
    pairs = _pairs(tally)
    columns = 3 if inner >= 74 else 2 if inner >= 46 else 1
    table, rows = _grid(pairs, columns), math.ceil(len(pairs) / columns)
    spare = height - 2 - 1 - rows - len(memory)  # the frame's two rows, the progress bar's one
    if spare < 0:
        return progress
    chart = _chart(tally, inner, min(spare - 3, PLOT_ROWS[-1]))
    gap = [Text()] if spare >= len(chart) + 2 else []
    return framed(Group(progress, *gap, *chart, *gap, table, *memory), _title(tally), ACCENT, width)


def bar(columns: int, part: float, style: str, shadow: float = 0.0) -> Text:
    """A bar filled to `part`, and more faintly to `shadow`."""
    full = _cells(columns, part)
    faint = max(0, _cells(columns, shadow) - full)
    return Text.assemble(
        ("━" * full, style), ("━" * faint, f"dim {style}"), ("─" * (columns - full - faint), QUIET), no_wrap=True
    )


def _cells(columns: int, part: float) -> int:
    return round(columns * min(1.0, max(0.0, part))) if math.isfinite(part) else 0


def _title(tally: Tally) -> str:
    return words.line(tally.start.run) if tally.start else "training"


def _progress(tally: Tally, width: int, waited: float) -> Text:
    steps = tally.start.steps if tally.start else tally.done
    at = f"step {count(tally.done)} of {count(steps)}  "
    left = max(0.0, tally.seconds_left - waited) if math.isfinite(tally.seconds_left) else math.nan
    until = f"{duration(left)} left" if math.isfinite(left) else "first step"
    said = f"  {tally.part:4.0%}  {duration(tally.seconds + waited)}, {until}"
    room = width - len(at) - len(said)
    return Text.assemble((at, "bold"), bar(max(0, room), tally.part, ACCENT), said, no_wrap=True, overflow="ellipsis")


def _pairs(tally: Tally) -> list[Pair]:
    """Names and values, row by row where there are three columns."""
    step, start, memory = tally.step, tally.start, tally.step.memory if tally.step else None
    said = [
        ("loss", Text(decimals(tally.loss.value if step else None), style="bold")),
        ("learning rate", Text(rate(step.learning_rate) if step else words.UNKNOWN)),
        ("tokens/s", Text(count(tally.tokens_per_second.value))),
        ("validation", Text(decimals(tally.eval.loss if tally.eval else None))),
        ("gradient norm", Text(decimals(step.grad_norm if step else None))),
        ("epoch", Text(_epoch(tally))),
        ("best", _best(tally)),
        ("padding", Text(share(start.padding_waste) if start else words.UNKNOWN)),
        ("checkpoint", Text(count(tally.checkpoint.step) if tally.checkpoint else words.UNKNOWN)),
        ("active", Text(size(memory.active_memory_bytes if memory else math.nan))),
        ("peak", Text(size(memory.peak_memory_bytes if memory else math.nan))),
        ("cache", Text(size(memory.cache_memory_bytes if memory else math.nan))),
    ]
    return said + ([("overflowed", Text(f"{count(tally.skipped)} steps", style=WARN))] if tally.skipped else [])


def _best(tally: Tally) -> Text:
    if tally.best is None:
        return Text(words.UNKNOWN)
    return Text.assemble((decimals(tally.best.loss), GOOD), f" at {count(tally.best.step)}")


def _epoch(tally: Tally) -> str:
    if tally.step is None or tally.start is None:
        return words.UNKNOWN
    whole = math.ceil(tally.start.steps / max(1, tally.start.steps_per_epoch))
    return f"{count(tally.step.epoch)} of {count(whole)}"


def _grid(pairs: Sequence[Pair], columns: int) -> Table:
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in range(columns):
        table.add_column(style=QUIET, no_wrap=True)
        table.add_column(no_wrap=True, ratio=1)
    for first in range(0, len(pairs), columns):
        cells = [cell for name, value in pairs[first : first + columns] for cell in (Text(name), value)]
        table.add_row(*cells)
    return table


def _memory(tally: Tally, width: int) -> list[RenderableType]:
    """The bar of active and peak memory against the device's limit."""
    if tally.step is None or tally.start is None or tally.start.memory_limit_bytes <= 0:
        return []
    limit, memory = tally.start.memory_limit_bytes, tally.step.memory
    active, peak = memory.active_memory_bytes / limit, memory.peak_memory_bytes / limit
    style = BAD if peak > 0.95 else WARN if peak > 0.85 else ACCENT
    said = f"  {share(peak)} of {size(limit)}"
    room = width - len("memory  ") - len(said)
    return [Text.assemble(("memory  ", QUIET), bar(max(0, room), active, style, peak), said, no_wrap=True)]


def _chart(tally: Tally, width: int, height: int) -> list[RenderableType]:
    """The loss with its scale at the left and the steps below."""
    curve, marks = tally.smooth, tally.marks
    if height < PLOT_ROWS[0] or not curve:
        return []
    labels = 8
    scale = plot.scale([*curve, *marks], width - labels, height)
    ends = {0: decimals(scale.top), height - 1: decimals(scale.bottom)}
    rows = [
        Text.assemble((f"{ends.get(place, ''):>{labels - 2}}  ", QUIET), *_coloured(row))
        for place, row in enumerate(plot.chart(curve, marks, scale))
    ]
    return [*rows, _steps_line(scale, width, labels, bool(marks))]


def _coloured(row: str) -> list[tuple[str, str]]:
    return [(letter, GOOD if letter == plot.MARK else ACCENT) for letter in row]


def _steps_line(scale: plot.Scale, width: int, labels: int, marked: bool) -> Text:
    first, last = f"step {count(scale.left)}", count(scale.right)
    legend = f"loss, smoothed{f'   {plot.MARK} validation' if marked else ''}"
    room = width - labels - len(first) - len(last)
    return Text(
        " " * labels + first + (legend.center(room) if room > len(legend) + 2 else " " * room) + last, style=QUIET
    )
