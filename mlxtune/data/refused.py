"""Rows that will not train, counted by reason; each is looked up when somebody wants to see it."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, overload

from mlxtune.data.notes import kind
from mlxtune.data.types import Refused


class Left(NamedTuple):
    """Rows that are left out for one kind of reason."""

    kind: str
    size: int
    rows: Callable[[], Iterator[Refused]]


class RefusedRows(Sequence[Refused]):
    """All of them, in an order that does not change. It is equal to whatever lists the same."""

    def __init__(self, lefts: Iterable[Left] = ()) -> None:
        self._lefts = [left for left in lefts if left.size]

    def __len__(self) -> int:
        return sum(left.size for left in self._lefts)

    def __iter__(self) -> Iterator[Refused]:
        for left in self._lefts:
            yield from left.rows()

    @overload
    def __getitem__(self, place: int) -> Refused: ...

    @overload
    def __getitem__(self, place: slice) -> list[Refused]: ...

    def __getitem__(self, place: int | slice) -> Refused | list[Refused]:
        if isinstance(place, slice):
            first, last, step = place.indices(len(self))
            return list(islice(self, first, last, step))
        return next(islice(self, range(len(self))[place], None))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list

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
