"""Rows that cannot be used: found one by one, told all at once, with the file and line of each."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from mlxtune.data.remote.file import File
from mlxtune.data.types import Refused
from mlxtune.errors import BadData
from mlxtune.format import listed, shortened

LONGEST = 300  # characters of what was found in a row that is skipped: a chat template's words may have any number
LISTED = 20  # places named in one message; a thousand would push the message itself off the screen
REMEDY = "Mend the rows, or skip such rows with --skip-bad-rows (counted and listed in the run's log)."


class Place(NamedTuple):
    """Where a row begins. line counts from 1; in parquet files and hub data sets it is the row. row: its number in
    the file, where rows share a line; else 0."""

    file: File
    line: int
    row: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.spot}"

    @property
    def spot(self) -> str:
        """The place in its file."""
        return f"{self.line} (row {self.row:,})" if self.row else f"{self.line}"

    @property
    def short(self) -> str:
        """The place without its folder, as token rows name it."""
        return f"{self.file.name}:{self.spot}"


class BadRow(Exception):
    """One row is wrong. It never leaves this package: `Fault` adds the place, `Kinds` makes the message.

    Rows with the same fault are told together; the same is what is expected, and kind where that does not say enough.
    """

    def __init__(self, expected: str, found: str, *, kind: str = "", remedy: str = "") -> None:
        self.expected, self.found, self.kind, self.remedy = expected, found, kind, remedy
        super().__init__(expected, found)


class Fault(NamedTuple):
    """A wrong row and its place."""

    place: Place
    expected: str
    found: str
    kind: str = ""
    remedy: str = ""

    @property
    def refused(self) -> Refused:
        return Refused(self.place.short, f"expected {self.expected}, found {shortened(self.found, LONGEST)}")


def fault(place: Place, bad: BadRow) -> Fault:
    return Fault(place, bad.expected, bad.found, bad.kind, bad.remedy)


@dataclass
class Kind:
    """Faults that are told together."""

    first: Fault
    more: int = 0
    spots: list[str] = field(default_factory=list)  # of the first of the others

    def add(self, other: Fault) -> None:
        """Count one more of the kind."""
        self.more += 1
        if len(self.spots) < LISTED:
            self.spots.append(other.place.spot)

    @property
    def told(self) -> BadData:
        """One error for all of them."""
        remedy = "\n".join(filter(None, [self._others, self.first.remedy, REMEDY]))
        first = self.first
        return BadData(str(first.place), expected=first.expected, found=first.found, remedy=remedy)

    @property
    def _others(self) -> str:
        if not self.more:
            return ""
        has = "row has" if self.more == 1 else "rows have"
        return f"{self.more:,} more {has} the same fault: {listed(self.spots, LISTED - 1)}."


class Kinds:
    """Faults as they are found, by kind and file: of a million there are as many as are told of ten."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[File, str, str], Kind] = {}

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def add(self, faults: Iterable[Fault]) -> None:
        """Take more faults, in the order of the rows."""
        for each in faults:
            key = each.place.file, each.expected, each.kind
            if key in self._kinds:
                self._kinds[key].add(each)
            else:
                self._kinds[key] = Kind(each)

    def errors(self) -> list[BadData]:
        """One for each kind of fault in each file."""
        return [kind.told for kind in self._kinds.values()]
