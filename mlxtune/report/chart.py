"""The loss as a picture: its curve, the validation losses on it, the scale at the left and the steps below."""

from rich.console import RenderableType
from rich.text import Text

from mlxtune.format import count, decimals
from mlxtune.report import plot
from mlxtune.report.style import ACCENT, GOOD, QUIET
from mlxtune.report.tally import Tally

FEWEST_ROWS, FEWEST_COLUMNS = 2, 10  # fewer say nothing
_NARROWEST_LABEL = 6  # columns, of a loss below 10; with it most runs keep one width from start to end
_GAP = 2  # columns between a label and the curve


def loss_chart(tally: Tally, width: int, height: int) -> list[RenderableType]:
    """The loss with its scale at the left and the steps below; no row is wider than `width`."""
    curve, marks = tally.smooth, tally.marks
    if height < FEWEST_ROWS or not curve:
        return []
    points = [*curve, *marks]
    labels = [decimals(value) for value in plot.ends(points)]
    room = max(_NARROWEST_LABEL, *map(len, labels)) + _GAP
    if width - room < FEWEST_COLUMNS:
        return []
    scale = plot.scale(points, width - room, height)
    beside = dict(zip((0, height - 1), labels, strict=True))
    rows = [_row(beside.get(place, ""), dots, room) for place, dots in enumerate(plot.chart(curve, marks, scale))]
    return [*rows, _steps_line(scale, room, bool(marks))]


def _row(label: str, dots: str, room: int) -> Text:
    curve = Text(dots, style=ACCENT)
    curve.highlight_words([plot.MARK], GOOD)
    return Text.assemble((f"{label:>{room - _GAP}}{'':{_GAP}}", QUIET), curve, no_wrap=True)


def _steps_line(scale: plot.Scale, room: int, marked: bool) -> Text:
    first, last = f"step {count(scale.left)}", count(scale.right)
    legend = f"loss, smoothed{f'   {plot.MARK} validation' if marked else ''}"
    between = scale.columns // 2 - len(first) - len(last)
    said = legend.center(between) if between > len(legend) + 2 else " " * between
    return Text(f"{'':{room}}{first}{said}{last}", style=QUIET, no_wrap=True, overflow="ellipsis")
