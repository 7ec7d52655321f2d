"""What is read off results: the measures, their middle over the repeats, and the ratios between two sides."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from mlxtune.bench.sides.spec import Case, Result
from mlxtune.format import count, share, size

COMPARED_STEPS = 45  # whose losses are compared: rounding grows from step to step


class Measure(NamedTuple):
    key: str  # in the JSON document
    words: str
    of: Callable[[Result], float]
    show: Callable[[float], str]
    compared: bool = True  # whether the ratio of two sides says something


class Spread(NamedTuple):
    """Of a measure or a ratio over the repeats."""

    middle: float
    least: float
    most: float


def measures(case: Case) -> list[Measure]:
    """All of them, in the order of the table. Rates are of the whole time: all epochs, and what is before them."""
    return [
        Measure("real_tokens_per_second", "real tokens/s", lambda r: r.real_tokens / r.whole_seconds, count),
        Measure("supervised_tokens_per_second", "supervised tokens/s", _supervised_rate, count),
        Measure("import_seconds", "imports, s", lambda r: r.import_seconds, _seconds, compared=False),
        Measure("before_seconds", "before the first step, s", lambda r: r.before_seconds, _seconds, compared=False),
        Measure("first_step_seconds", "first step, s", lambda r: r.first_step_seconds, _seconds, compared=False),
        *(_epoch(number) for number in range(1, case.epochs + 1)),
        Measure("whole_seconds", "whole, s", lambda r: r.whole_seconds, _seconds),
        Measure("peak_bytes", "peak of MLX", lambda r: r.peak_bytes, size),
        Measure("resident_bytes", "peak of the process", lambda r: r.resident_bytes, size),
        Measure("imported_bytes", "of it after the imports", lambda r: r.imported_bytes, size, compared=False),
        Measure("padding_waste", "padding", lambda r: 1 - r.real_tokens / r.positions, share, compared=False),
        Measure("step_gflop", "GFLOP a step", lambda r: r.step_flops / 1e9, lambda value: f"{value:,.1f}"),
        Measure("matrix_share", "of the matrix rate", lambda r: matrix_share(case, r), share),
    ]


def _supervised_rate(result: Result) -> float:
    return result.supervised_tokens / result.whole_seconds


def _epoch(number: int) -> Measure:
    key, words = f"epoch_{number}_seconds", f"epoch {number}, s"
    return Measure(key, words, lambda result: result.epoch_seconds[number - 1], _seconds)


def _seconds(value: float) -> str:
    return f"{value:,.2f}"


def matrix_share(case: Case, result: Result) -> float:
    """Operations a second in the last epoch, as a share of what one large product reaches in the same process."""
    return result.step_flops * case.steps_per_epoch / result.epoch_seconds[-1] / result.matrix_flops


def spread(values: Sequence[float]) -> Spread:
    """The middle, least and most of some.

    >>> spread([3.0, 1.0, 2.5])
    Spread(middle=2.5, least=1.0, most=3.0)
    """
    return Spread(median(values), min(values), max(values))


def ratios(measure: Measure, ours: Sequence[Result], theirs: Sequence[Result]) -> Spread | None:
    """Ours over theirs, of results that ran after each other; None where that says nothing."""
    pairs = [(measure.of(a), measure.of(b)) for a, b in zip(ours, theirs, strict=True)]
    return spread([a / b for a, b in pairs]) if measure.compared else None


def loss_difference(ours: Sequence[Result], theirs: Sequence[Result]) -> float:
    """The largest, in nats, over the first steps of all repeats."""
    return max(
        abs(a - b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one.losses[:COMPARED_STEPS], other.losses[:COMPARED_STEPS], strict=True)
    )
