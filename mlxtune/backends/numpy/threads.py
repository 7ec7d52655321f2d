"""Work outside the BLAS shared among as many threads as it has; NumPy lets go of the interpreter while it works.

A part's result is the same whoever computes it, so the number of threads changes no bit of it. Parts are large: threads
wait for the interpreter between two operations, and with operations of 10 us two are slower than one. A thread that has
a part does not share its work again.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from mlxtune.backends.numpy.device import threads

Part = TypeVar("Part")
Result = TypeVar("Result")
LEAST = 1 << 18  # elements of a work with products in it: with fewer, waking the threads takes longer than they save
_here = threading.local()  # .has_part: in a thread of the pool


def each(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """The results of all parts, in their order.

    >>> each(lambda part: part * 2, range(5))
    [0, 2, 4, 6, 8]
    """
    if free() == 1 or len(parts) == 1:
        return [work(part) for part in parts]
    return list(_pool().map(work, parts))


def each_alone(work: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """As `each`, of parts whose products are made by the part's own thread, even of one part.

    The BLAS would split each of them among its threads, though they are too small to gain by it; and what it splits has
    other last bits.
    """
    if free() == 1:
        return [work(part) for part in parts]
    with _blas().limit(limits=1):
        return list(_pool().map(work, parts))


def share(work: Callable[[slice], None], n_things: int, n_elements: int) -> None:
    """`work` on slices of `n_things`, one for each thread, whose products are its own."""
    n_slices = min(free(), n_things) if n_elements >= LEAST else 1
    if n_slices == 1:
        work(slice(0, n_things))
        return
    ends = [n_things * number // n_slices for number in range(n_slices + 1)]
    each_alone(work, [slice(*pair) for pair in pairwise(ends)])


def free() -> int:
    """How many threads this one may share its work among."""
    return 1 if getattr(_here, "has_part", False) else threads()


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), "mlxtune-numpy", initializer=_begin)


def _begin() -> None:
    """Quiet as `errstate` in the learner makes its own thread: others do not inherit it."""
    np.seterr(all="ignore")
    _here.has_part = True
