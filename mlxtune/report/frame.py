"""One picture of a running job: progress, loss curve, numbers and memory, as far as the terminal has room."""

import math
from collections.abc import Sequence
from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mlxtune import format as words
from mlxtune.format import count, decimals, duration, rate, share, size
from mlxtune.report.chart import loss_chart
from mlxtune.report.style import ACCENT, BAD, BORDERS, GOOD, MAX_WIDTH, QUIET, WARN, framed
from mlxtune.report.tally import Tally

MOST_PLOT_ROWS = 8  # more say no more
WIDTH_FOR_CLOCK = 50  # in fewer columns only the time left is told

Pair = tuple[str, Text]


def frame(tally: Tally, width: int, height: int, waited: float = 0.0) -> RenderableType:
    """The picture in at most `height` rows. waited: seconds since the last event."""
    inner = min(width, MAX_WIDTH) - BORDERS
    progress, memory = _progress(tally, inner, waited), _memory(tally, inner)
    pairs, columns = _pairs(tally), 3 if inner >= 74 else 2 if inner >= 46 else 1
    rows = math.ceil(len(pairs) / columns)
    spare = height - 2 - 1 - rows - len(memory)  # the frame's two rows, the progress bar's one
    if spare < 0:
        return Group(progress)  # a bare Text would be wrapped
    chart = loss_chart(tally, inner, min(spare - 3, MOST_PLOT_ROWS))
    gap = [Text()] if spare >= len(chart) + 2 else []
    return framed(Group(progress, *gap, *chart, *gap, _grid(pairs, rows), *memory), _title(tally), ACCENT, width)


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
    since = f"{duration(tally.seconds + waited)}, " if width >= WIDTH_FOR_CLOCK else ""
    said = f"  {tally.part:4.0%}  {since}{until}"
    room = width - len(at) - len(said)
    return Text.assemble((at, "bold"), bar(max(0, room), tally.part, ACCENT), said, no_wrap=True, overflow="ellipsis")


def _pairs(tally: Tally) -> list[Pair]:
    """Names and values: the losses, the step's numbers, and memory, four each."""
    step, start, memory = tally.step, tally.start, tally.step.memory if tally.step else None
    said = [
        ("loss", Text(decimals(tally.loss.value if step else None), style="bold")),
        ("validation", Text(decimals(tally.eval.loss if tally.eval else None))),
        ("best", _best(tally)),
        ("epoch", Text(_epoch(tally))),
        ("learning rate", Text(rate(step.learning_rate) if step else words.UNKNOWN)),
        ("gradient norm", Text(decimals(step.grad_norm if step else None))),
        ("tokens/s", Text(count(tally.tokens_per_second.value))),
        ("padding", Text(share(start.padding_waste) if start else words.UNKNOWN)),
        ("active", Text(size(memory.active_memory_bytes if memory else math.nan))),
        ("peak", Text(size(memory.peak_memory_bytes if memory else math.nan))),
        ("cache", Text(size(memory.cache_memory_bytes if memory else math.nan))),
        ("checkpoint", Text(count(tally.checkpoint.step) if tally.checkpoint else words.UNKNOWN)),
    ]
    said += [(_short(name), Text(f"{value:.4g}")) for name, value in (step.metrics if step else {}).items()]
    return said + ([("overflowed", Text(f"{count(tally.skipped)} steps", style=WARN))] if tally.skipped else [])


def _short(metric: str) -> str:
    """A metric's name in a narrow column.

    >>> _short("reward_margin"), _short("chosen_logp")
    ('margin', 'chosen')
    """
    return metric.removeprefix("reward_").removesuffix("_logp").replace("_", " ")


def _best(tally: Tally) -> Text:
    if tally.best is None:
        return Text(words.UNKNOWN)
    return Text.assemble((decimals(tally.best.value), GOOD), f" at {count(tally.best.step)}")


def _epoch(tally: Tally) -> str:
    if tally.step is None or tally.start is None:
        return words.UNKNOWN
    whole = math.ceil(tally.start.steps / max(1, tally.start.steps_per_epoch))
    return f"{count(tally.step.epoch)} of {count(whole)}"


def _grid(pairs: Sequence[Pair], rows: int) -> Table:
    """The pairs in columns of `rows`, read downwards."""
    columns = [pairs[first : first + rows] for first in range(0, len(pairs), rows)]
    table = Table.grid(padding=(0, 2), expand=True)
    for place in range(len(columns)):
        table.add_column(style=QUIET, no_wrap=True)
        table.add_column(no_wrap=True, ratio=1 if place else 2)
    for row in zip_longest(*columns, fillvalue=("", Text())):
        table.add_row(*(cell for name, value in row for cell in (Text(name), value)))
    return table


def _memory(tally: Tally, width: int) -> list[RenderableType]:
    """The bar of active and peak memory against the device's limit."""
    if tally.step is None or tally.start is None or tally.start.memory_limit_bytes <= 0:
        return []
    limit, memory = tally.start.memory_limit_bytes, tally.step.memory
    active, peak = memory.active_memory_bytes / limit, memory.peak_memory_bytes / limit
    style = BAD if peak > 0.95 else WARN if peak > 0.85 else ACCENT
    said = f"  peak {share(peak)} of {size(limit)}"
    room = width - len("memory  ") - len(said)
    return [Text.assemble(("memory  ", QUIET), bar(max(0, room), active, style, peak), said, no_wrap=True)]
