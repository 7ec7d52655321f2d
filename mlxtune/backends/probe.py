"""A product to time and a gradient to check, the same for every backend. No array library: the answers are counted.

The loss is the summed cross-entropy of hidden_ND @ head_VD.T. N tokens, D features, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

SIZE = 1024  # rows and columns of the matrices that are timed
ENOUGH_SECONDS = 0.3  # of timing: a slow machine is measured once
MOST_REPEATS = 10
# Of the gradient's largest entry. Float32 is off by 1e-7, but some GPUs multiply float32 as TF32, with 11 bits.
TOLERANCE = 5e-3

Matrix = list[list[float]]
Multiply = Callable[[], object]  # makes one product and waits for it
# Multiples of a quarter, which are exact in every number format.
HIDDEN_ND: Matrix = [[((3 * n + 5 * d) % 13 - 6) / 4 for d in range(16)] for n in range(8)]
HEAD_VD: Matrix = [[((7 * v + 2 * d) % 11 - 5) / 4 for d in range(16)] for v in range(24)]
TARGETS_N = [(5 * n) % 24 for n in range(8)]


class Probe(NamedTuple):
    """What a backend showed."""

    device: str  # in words
    on_processor: bool
    memory_limit_bytes: int  # that the device can give; 0 where it does not say
    gflops: float  # 10^9 additions and multiplications a second, float32
    gradient_error: float  # the largest, as a share of the true gradient's largest entry; nan where it has nan


def true_gradient() -> Matrix:
    """The loss's gradient of the head, (V, D), in Python's float64: (softmax - onehot)' @ hidden."""
    errors_NV = [_softmax_less_target(*row) for row in zip(HIDDEN_ND, TARGETS_N, strict=True)]
    return [
        [_dot(error_N, hidden_N) for hidden_N in zip(*HIDDEN_ND, strict=True)]
        for error_N in zip(*errors_NV, strict=True)
    ]


def _softmax_less_target(hidden_D: Sequence[float], target: int) -> list[float]:
    exponentials_V = [math.exp(_dot(hidden_D, row_D)) for row_D in HEAD_VD]
    total = sum(exponentials_V)
    return [value / total - (v == target) for v, value in enumerate(exponentials_V)]


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def gradient_error(found_VD: Matrix) -> float:
    """How far a gradient is from the true one.

    >>> gradient_error(true_gradient()), gradient_error([[math.nan] * 16] * 24)
    (0.0, nan)
    """
    pairs = [pair for rows in zip(found_VD, true_gradient(), strict=True) for pair in zip(*rows, strict=True)]
    errors = [abs(found - true) for found, true in pairs]
    return math.nan if any(map(math.isnan, errors)) else max(errors) / max(abs(true) for _, true in pairs)


def gflops(multiply: Multiply) -> float:
    """The best of a few products of two square matrices of SIZE, after one that is not counted."""
    multiply()
    seconds: list[float] = []
    begin = perf_counter()
    while not seconds or (perf_counter() - begin < ENOUGH_SECONDS and len(seconds) < MOST_REPEATS):
        start = perf_counter()
        multiply()
        seconds.append(perf_counter() - start)
    return 2 * SIZE**3 / min(seconds) / 1e9
