"""The loss as a picture: its curve, the validation losses on it, the scale at the left and the steps below."""

from rich.console import RenderableType
from rich.text import Text

from mlxtune.report import plot
from mlxtune.report.style import ACCENT, GOOD, QUIET
from mlxtune.report.tally import Tally
from mlxtune.words import count, decimals

FEWEST_ROWS, FEWEST_COLUMNS = 2, 10  # fewer say nothing
_LABELS = 8  # columns of the scale


def loss_chart(tally: Tally, width: int, height: int) -> list[RenderableType]:
    """The loss with its scale at the left and the steps below."""
    curve, marks = tally.smooth, tally.marks
    if height < FEWEST_ROWS or width - _LABELS < FEWEST_COLUMNS or not curve:
        return []
    scale = plot.scale([*curve, *marks], width - _LABELS, height)
    ends = {0: decimals(scale.top), height - 1: decimals(scale.bottom)}
    rows = [_row(ends.get(place, ""), dots) for place, dots in enumerate(plot.chart(curve, marks, scale))]
    return [*rows, _steps_line(scale, width - _LABELS, bool(marks))]


def _row(label: str, dots: str) -> Text:
    curve = Text(dots, style=ACCENT)
    curve.highlight_words([plot.MARK], GOOD)
    return Text.assemble((f"{label:>{_LABELS - 2}}  ", QUIET), curve)


def _steps_line(scale: plot.Scale, width: int, marked: bool) -> Text:
    first, last = f"step {count(scale.left)}", count(scale.right)
    legend = f"loss, smoothed{f'   {plot.MARK} validation' if marked else ''}"
    room = width - len(first) - len(last)
    between = legend.center(room) if room > len(legend) + 2 else " " * room
    return Text(f"{'':{_LABELS}}{first}{between}{last}", style=QUIET)
