"""Tables with a header: CSV, or the same with semicolons or tabs, as the header's line tells. All cells are text."""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from mlxtune.data.faults import Fault, Place
from mlxtune.data.readers import json_rows, unicode
from mlxtune.data.readers.raw import Raw, Rows
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData
from mlxtune.format import shown


def rows(file: File, *, tabs: bool = False) -> Rows:
    """Rows of a table; JSON under this name is read as what it is. A row has as many cells as the header.

    tabs: the name says that there are tabs between the cells.
    """
    with io.TextIOWrapper(unicode.utf8(file), encoding="utf-8", newline="") as lines:
        try:
            skipped, first = next(((place, line) for place, line in enumerate(lines) if line.strip()), (0, ""))
            if not first.lstrip().startswith(("{", "[")):
                yield from _table(file, skipped, first, lines, tabs=tabs)
                return
        except UnicodeDecodeError:
            raise unicode.undecodable(file) from None
    yield from json_rows.rows(file)


def _table(file: File, skipped: int, first: str, lines: Iterator[str], *, tabs: bool) -> Rows:
    csv.field_size_limit(2**31 - 1)  # the default, 131,072 characters, is less than a long row
    reader = csv.reader(chain([first], lines), strict=True, delimiter=_mark(first, tabs=tabs))
    line = skipped + 1
    try:
        header = _header(file, line, next(reader, []))
        line = skipped + reader.line_num + 1
        for cells in reader:
            place, line = Place(file, line), skipped + reader.line_num + 1
            if any(cell.strip() for cell in cells):
                yield _row(place, header, cells)
    except csv.Error as error:  # a quote that is never closed swallows the rest of the file
        raise BadData(f"{file}:{line}", expected="a CSV row", found=f"one that cannot be read ({error})") from None


def _mark(header: str, *, tabs: bool) -> str:
    """What stands between the cells: what the header has most of, but that any tab counts under a name that says so."""
    return "\t" if tabs and "\t" in header else max("\t,;" if tabs else ",;\t", key=header.count)


def _header(file: File, line: int, cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = [shown(name, 40) for name, count in Counter(header).items() if count > 1]
    if twice:
        found = f"{', '.join(twice[:5])}{', ...' if twice[5:] else ''} more than once"
        raise BadData(f"{file}:{line}", expected="a header that names each column once", found=found)
    return header


def _row(place: Place, header: list[str], cells: list[str]) -> Raw | Fault:
    if len(cells) != len(header):
        expected = f"{len(header):,} {'cell' if len(header) == 1 else 'cells'}, as in the header"
        return Fault(place, expected, f"{len(cells):,}")
    if any("\0" in cell for cell in cells):
        return Fault(place, "text", "a NUL byte, as in a file that was cut off or is no table")
    return Raw(place, dict(zip(header, cells, strict=True)))
