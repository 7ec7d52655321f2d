"""A curve in a few rows of text: braille cells of two by four dots, with marks over them."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

MARK = "◆"
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bit of the dot in row, column of a cell


class Point(NamedTuple):
    step: int
    value: float


class Curve:
    """A smooth curve of any length in at most `limit` points: when they are too many, every second one goes."""

    def __init__(self, limit: int = 1024) -> None:
        self.points: list[Point] = []
        self._limit, self._stride, self._seen = limit, 1, 0

    def add(self, step: int, value: float) -> None:
        if self._seen % self._stride == 0:
            self.points.append(Point(step, value))
        self._seen += 1
        if len(self.points) > self._limit:
            del self.points[1::2]
            self._stride *= 2


class Scale(NamedTuple):
    """The place of a value among `columns` by `rows` dots; row 0 is the top."""

    left: float
    right: float
    bottom: float
    top: float
    columns: int
    rows: int

    def column(self, step: float) -> int:
        return round((step - self.left) / (self.right - self.left) * (self.columns - 1))

    def step(self, column: int) -> float:
        return self.left + column / (self.columns - 1) * (self.right - self.left)

    def row(self, value: float) -> int:
        return round((self.top - value) / (self.top - self.bottom) * (self.rows - 1))


def scale(points: Sequence[Point], width: int, height: int) -> Scale:
    """The scale that shows all points in `width` by `height` cells; a flat curve lies in the middle."""
    steps, (top, bottom) = [point.step for point in points], ends(points)
    right = max(max(steps), min(steps) + 1)
    return Scale(min(steps), right, bottom, top, 2 * width, 4 * height)


def ends(points: Sequence[Point]) -> tuple[float, float]:
    """The values at the top and the bottom of a scale that shows all points.

    >>> ends([Point(1, 4.0), Point(2, 2.0)]), ends([Point(1, 2.0)])
    ((4.0, 2.0), (2.002, 1.998))
    """
    values = [point.value for point in points]
    margin = 0.0 if max(values) > min(values) else max(abs(values[0]) * 1e-3, 1e-3)
    return max(values) + margin, min(values) - margin


def chart(curve: Sequence[Point], marks: Sequence[Point], scale: Scale) -> list[str]:
    r"""Rows of text, the top first: the curve as a line of dots, each mark as a diamond over it.

    >>> points = [Point(1, 4.0), Point(5, 2.0), Point(9, 1.5)]
    >>> print(*chart(points, [points[1]], scale(points, width=8, height=2)), sep="\n")
    ⠑⠢⡀⠀⠀⠀⠀⠀
    ⠀⠀⠈⠑◆⠤⢄⣀
    """
    cells = [[0] * (scale.columns // 2) for _ in range(scale.rows // 4)]
    before: int | None = None
    for column in range(scale.columns):
        value = _value_at(curve, scale.step(column))
        row = None if value is None else scale.row(value)
        if row is not None:
            for dot in _joined(before, row):
                cells[dot // 4][column // 2] |= _DOTS[dot % 4][column % 2]
        before = row
    rows = [[chr(_BRAILLE + bits) for bits in line] for line in cells]
    for mark in marks:
        rows[scale.row(mark.value) // 4][scale.column(mark.step) // 2] = MARK
    return ["".join(row) for row in rows]


def _value_at(curve: Sequence[Point], step: float) -> float | None:
    """The curve's value between its points; None outside of them."""
    if not curve or not curve[0].step <= step <= curve[-1].step:
        return None
    after = bisect_right(curve, step, key=lambda point: point.step)
    left, right = curve[after - 1], curve[min(after, len(curve) - 1)]
    part = (step - left.step) / (right.step - left.step) if right.step > left.step else 0.0
    return left.value + part * (right.value - left.value)


def _joined(before: int | None, row: int) -> range:
    """The dots of this column that join it to the one before without a gap."""
    if before is None or before == row:
        return range(row, row + 1)
    return range(before + 1, row + 1) if before < row else range(row, before)
