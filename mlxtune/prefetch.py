"""What comes next, made in a thread while what is here is worked on."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


@contextmanager
def made_ahead(items: Iterator[Item], make: Callable[[Item], Made]) -> Iterator[Iterator[tuple[Item, Made]]]:
    """Each item with what `make` makes of it, one ahead of where it is asked for. Leaving it waits for the thread.

    What `items` or `make` raises is raised where that item is asked for.

    >>> with made_ahead(iter("ab"), str.upper) as pairs:
    ...     list(pairs)
    [('a', 'A'), ('b', 'B')]
    """
    with ThreadPoolExecutor(1, "mlxtune-ahead") as thread:
        yield _pairs(thread, items, make)


def _pairs(
    thread: ThreadPoolExecutor, items: Iterator[Item], make: Callable[[Item], Made]
) -> Iterator[tuple[Item, Made]]:
    def following() -> tuple[Item, Made] | None:
        item = next(items, None)
        return None if item is None else (item, make(item))

    coming: Future[tuple[Item, Made] | None] = thread.submit(following)
    while (pair := coming.result()) is not None:
        coming = thread.submit(following)
        yield pair
