"""Elementwise work shared among as many threads as the BLAS has; NumPy lets go of the interpreter while it works.

A part's result is the same whoever computes it, so the number of threads changes no bit of what is elementwise.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np

from mlxtune.backends.numpy.device import threads

Part = TypeVar("Part")
Result = TypeVar("Result")
FEWEST = 4  # parts: fewer are done before another thread is awake


def each(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """The results of all parts, in their order.

    >>> each(lambda part: part * 2, range(5))
    [0, 2, 4, 6, 8]
    """
    if threads() == 1 or len(parts) < FEWEST:
        return [work(part) for part in parts]
    return list(_pool().map(work, parts))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), "mlxtune-numpy", initializer=_quiet)


def _quiet() -> None:
    """As `errstate` in the learner, which other threads do not inherit."""
    np.seterr(all="ignore")
