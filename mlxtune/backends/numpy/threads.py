"""Work outside the BLAS shared among as many threads as it has; NumPy lets go of the interpreter while it works.

A part's result is the same whoever computes it, so the number of threads changes no bit of it. Parts are large: threads
wait for the interpreter between two operations, and with operations of 10 us two are slower than one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from mlxtune.backends.numpy.device import threads

Part = TypeVar("Part")
Result = TypeVar("Result")
LEAST = 1 << 18  # elements of a work with products in it: with fewer, waking the threads takes longer than they save


def each(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """The results of all parts, in their order.

    >>> each(lambda part: part * 2, range(5))
    [0, 2, 4, 6, 8]
    """
    if threads() == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    return list(_pool().map(work, parts))


def share(work: Callable[[slice], None], n_things: int, n_elements: int) -> None:
    """`work` on slices of `n_things`, one for each thread, in which products run on that thread alone.

    The BLAS would split each of them among its own threads, though they are too small to gain by it.
    """
    n_slices = min(threads(), n_things) if n_elements >= LEAST else 1
    if n_slices == 1:
        work(slice(0, n_things))
        return
    ends = [n_things * number // n_slices for number in range(n_slices + 1)]
    with _blas().limit(limits=1):
        list(_pool().map(work, map(slice, ends[:-1], ends[1:])))


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), "mlxtune-numpy", initializer=_quiet)


def _quiet() -> None:
    """As `errstate` in the learner, which other threads do not inherit."""
    np.seterr(all="ignore")
