"""Rows that cannot be used: found one by one, told all at once, with the file and line of each."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mlxtune.data.remote.file import File
from mlxtune.data.types import Refused
from mlxtune.errors import BadData, MlxtuneError, raise_all
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
    """One row is wrong. It never leaves this package: `Fault` adds the place, `refuse_or_raise` makes the message.

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


def refuse_or_raise(faults: Sequence[Fault], *, skip: bool, broken: Sequence[MlxtuneError] = ()) -> tuple[Refused, ...]:
    """The faults as refused rows where bad rows are skipped; else one error for each kind of fault in each file.

    broken: what is wrong with whole files, which is told with them.
    """
    kinds = [] if skip else _kinds(faults)
    raise_all([*broken, *map(_told, kinds)])
    return tuple(each.refused for each in faults)


def _kinds(faults: Iterable[Fault]) -> list[list[Fault]]:
    kinds: dict[tuple[File, str, str], list[Fault]] = {}
    for each in faults:
        kinds.setdefault((each.place.file, each.expected, each.kind), []).append(each)
    return list(kinds.values())


def _told(group: Sequence[Fault]) -> BadData:
    first, *others = group
    lines = [_others(others)] if others else []
    remedy = "\n".join([*lines, *filter(None, [first.remedy]), REMEDY])
    return BadData(str(first.place), expected=first.expected, found=first.found, remedy=remedy)


def _others(others: Sequence[Fault]) -> str:
    lines = listed((each.place.spot for each in others), LISTED - 1)
    return f"{len(others):,} more {'row has' if len(others) == 1 else 'rows have'} the same fault: {lines}."
