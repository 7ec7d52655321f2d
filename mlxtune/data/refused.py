"""Rows that will not train, counted by reason; each is looked up when somebody wants to see it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from mlxtune.data.notes import kind
from mlxtune.data.types import Refused


class Left(NamedTuple):
    """Rows that are left out for one kind of reason."""

    kind: str
    size: int
    rows: Callable[[], Iterator[Refused]]


class RefusedRows:
    """All of them, in an order that does not change."""

    def __init__(self, lefts: Iterable[Left] = ()) -> None:
        self._lefts = [left for left in lefts if left.size]

    def __len__(self) -> int:
        return sum(left.size for left in self._lefts)

    def __iter__(self) -> Iterator[Refused]:
        for left in self._lefts:
            yield from left.rows()

    def first(self, count: int) -> list[Refused]:
        """The first of them."""
        return list(islice(self, count))

    @property
    def kinds(self) -> Counter[str]:
        """How many there are of each kind."""
        kinds: Counter[str] = Counter()
        for left in self._lefts:
            kinds[left.kind] += left.size
        return kinds


def of_reasons(refused: Callable[[], Iterator[Refused]]) -> Sequence[Left]:
    """Those that were refused when the rows were made, by the kinds of their reasons."""
    return [Left(reason, count, _only(refused, reason)) for reason, count in Counter(map(kind, refused())).items()]


def _only(refused: Callable[[], Iterator[Refused]], reason: str) -> Callable[[], Iterator[Refused]]:
    return lambda: (each for each in refused() if kind(each) == reason)
