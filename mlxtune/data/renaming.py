"""Rows whose columns have other names -> rows under the names that forms read. `columns` reads what the user says."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxtune.data.columns import CONSTANT, bad
from mlxtune.data.faults import BadRow, Fault, fault
from mlxtune.data.forms import FORMS, MEDIA
from mlxtune.data.readers.raw import Raw
from mlxtune.data.unread import Unread
from mlxtune.format import listed, shown

LISTED = 20  # columns in one message
MOST = 10 * LISTED  # that are remembered, and those of one more row
NAMES = tuple(dict.fromkeys(name for form in FORMS for name in (*form.needs, *form.may) if name not in MEDIA))


def check(wanted: Mapping[str, str]) -> None:
    """Raise BadSetting for names and columns that could make no row."""
    if not wanted:
        raise bad("NAME=COLUMN at least once", "nothing")
    if bare := [name for name, column in wanted.items() if not name or column in ("", CONSTANT)]:
        raise bad("NAME=COLUMN, or NAME==TEXT, each time", f"{shown(bare[0], 40)} without a column")
    if unknown := next((name for name in wanted if name not in NAMES), None):
        raise bad("names that rows are read by", shown(unknown, 40), f"They are: {', '.join(NAMES)}.")
    if not any(all(map(form.reads, wanted)) for form in FORMS):
        raise bad("names that one form of rows has together", ", ".join(wanted))


@dataclass
class Found:
    """What rows have: how many there are, the first of their columns, and those of these that are asked for."""

    rows: int = 0
    there: dict[str, None] = field(default_factory=dict)
    asked: dict[str, None] = field(default_factory=dict)

    def plus(self, other: "Found") -> None:
        """Add what was found in later rows."""
        self.rows += other.rows
        self.asked.update(other.asked)
        if len(self.there) < MOST:
            self.there.update(other.there)

    def check(self, wanted: Mapping[str, str]) -> None:
        """Raise BadSetting for a column that no row has."""
        if not self.rows:
            raise bad("rows that have columns", "plain text alone", "Leave it out.")
        for column in wanted.values():
            if column[:1] != CONSTANT and column not in self.asked:
                remedy = f"There are: {_shown(self.there)}."
                raise bad("columns that rows have", f"{shown(column, 40)}, which none has", remedy)


class Renaming:
    """Rows under their new names, and what was seen of their columns on the way."""

    def __init__(self, wanted: Mapping[str, str], unread: Unread) -> None:
        """unread takes the text of columns whose name another is given."""
        self.columns = {name: column for name, column in wanted.items() if column[:1] != CONSTANT}
        self.constants = {name: column[1:] for name, column in wanted.items() if column[:1] == CONSTANT}
        self.unread, self.found = unread, Found()

    def __call__(self, raws: Iterable[Raw | Fault]) -> Iterator[Raw | Fault]:
        """The rows; a row that lacks a column is a fault."""
        for raw in raws:
            if isinstance(raw, Fault) or not isinstance(raw.value, dict):
                yield raw
                continue
            try:
                yield raw._replace(value=self._renamed(raw.value))
            except BadRow as lacking:
                yield fault(raw.place, lacking)

    def _renamed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        self._see(row)
        paths = {name: _path(row, column) for name, column in self.columns.items()}
        if lacking := next((self.columns[name] for name, path in paths.items() if not path), None):
            raise BadRow(f"the column {shown(lacking, 40)}", f"the columns {_shown(columns_of(row))}")
        rest = dict(row)
        for path in paths.values():
            rest = _without(rest, path)
        made = {name: _value(row, path) for name, path in paths.items()} | self.constants
        for name in made.keys() & rest.keys():
            self.unread.add(name, rest[name])
        return rest | made

    def _see(self, row: Mapping[str, Any]) -> None:
        found = self.found
        found.rows += 1
        if len(found.there) < MOST:
            found.there.update(dict.fromkeys(columns_of(row)))
        for column in self.columns.values():
            if column not in found.asked and _path(row, column):
                found.asked[column] = None


def columns_of(row: Mapping[str, Any]) -> list[str]:
    """The names that columns can be called by; of an object, those of what is in it.

    >>> columns_of({"id": 1, "reply": {"text": "a"}})
    ['id', 'reply.text']
    """
    return [
        name
        for key, value in row.items()
        for name in ([f"{key}.{inner}" for inner in value] if value and isinstance(value, dict) else [key])
    ]


def _shown(names: Iterable[str]) -> str:
    """The first of them, as a message shows them."""
    return listed((shown(name, 40) for name in names), LISTED) or "none"


def _path(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The keys that lead to a column; none where the row does not have it. A whole name comes before its parts."""
    if column in row:
        return (column,)
    head, point, rest = column.partition(".")
    inner = row.get(head)
    deeper = _path(inner, rest) if point and isinstance(inner, dict) else ()
    return (head, *deeper) if deeper else ()


def _value(row: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        row = row[key]
    return row


def _without(row: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """A copy that lacks what the path leads to. Two names may have led there."""
    head, *rest = path
    inner = row.get(head)
    if rest and isinstance(inner, dict):
        return {**row, head: _without(inner, tuple(rest))}
    return {key: value for key, value in row.items() if key != head}
