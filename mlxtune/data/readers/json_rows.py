"""Rows as JSON: one object a line, objects of several lines one after another, or lists of objects.

Which of them a file is, its first lines tell, whatever its name says. Line by line, all that is wrong is found at once;
otherwise a fault of syntax ends the reading, as what follows it cannot be told apart.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Literal

from mlxtune.data.faults import Fault, Place
from mlxtune.data.readers import unicode
from mlxtune.data.readers.raw import Raw, Rows
from mlxtune.errors import BadData
from mlxtune.format import shown

Layout = Literal["lines", "values", "table"]

_LOOKED_AT = 1_000_000  # characters of a text that may be rows
_BLANKS = re.compile(r"[ \t\r\n]*")
_COLUMN = re.compile(rb"[A-Za-z_][\w .-]*")


class Repeated(ValueError):
    """An object names a key twice: which of the two was meant?"""

    def __init__(self, key: str) -> None:
        super().__init__(f"{shown(key)} twice in one object")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Repeated(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return made


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, also for a key twice, huge numbers and brackets nested too deep."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def rows(file: Path) -> Rows:
    with unicode.utf8(file) as stream:
        layout = _layout(stream)
    if layout == "table":
        raise BadData(str(file), expected="JSON objects", found="a table", remedy="Name the file .csv.")
    if layout == "values":
        yield from _values(file, unicode.whole(file))
        return
    with unicode.utf8(file) as stream:
        yield from _lines(file, stream)


def _layout(stream: BinaryIO) -> Layout:
    """Told from the first two lines that are not blank."""
    first = _next_line(stream)
    if first.startswith(b"["):
        return "values"
    if not first.startswith(b"{"):
        return "table" if _is_header(first) and _next_line(stream)[:1] not in (b"{", b"[") else "lines"
    if not _is_begun(first):
        return "lines"
    return "lines" if _is_object(_next_line(stream)) else "values"


def _next_line(stream: BinaryIO) -> bytes:
    return next((line.strip() for line in stream if line.strip()), b"")


def _is_header(line: bytes) -> bool:
    cells = re.split(rb"[,;\t]", line)
    return len(cells) > 1 and all(_COLUMN.fullmatch(cell.strip(b' "')) for cell in cells)


def _is_begun(line: bytes) -> bool:
    """Whether a line is the beginning of an object that goes on in the next line."""
    try:
        _DECODER.decode(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        return error.pos >= len(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return False


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(loads(line.decode("utf-8")), dict)
    except ValueError:
        return False


def are_rows(text: str) -> bool:
    """Whether a text is rows under another name: its first two lines, or its only one, are objects."""
    lines = (line.strip().encode("utf-8") for line in text[:_LOOKED_AT].split("\n") if line.strip())
    first, second = next(lines, b""), next(lines, b"{}")
    return first.startswith(b"{") and _is_object(first) and _is_object(second)


def _lines(file: Path, stream: BinaryIO) -> Rows:
    """Blank lines are skipped. Lines end at a newline alone: JSON text may hold U+2028."""
    for number, line in enumerate(stream, start=1):
        if not line.isspace():
            yield _line(Place(file, number), line.rstrip(b"\r\n"))


def _line(place: Place, line: bytes) -> Raw | Fault:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault(place, "UTF-8 text", f"the byte 0x{line[error.start]:02x} at column {error.start + 1}")
    try:
        return Raw(place, loads(text))
    except json.JSONDecodeError as error:
        return Fault(place, "a JSON object", f"{shown(text, 40)} ({error.msg}, column {error.colno})")
    except Repeated as error:
        return _twice(place, error)
    except ValueError as error:  # a number of thousands of digits, brackets nested without end
        return Fault(place, "a JSON object", f"{shown(text, 40)} ({error})")


def _twice(place: Place, error: Repeated) -> Fault:
    return Fault(place, "each key once", str(error))


def _values(file: Path, text: str) -> Rows:
    """Values one after another, each with the line that it begins on; a list stands for its elements."""
    at, counted, listed = _skip(text, 0), 0, False  # counted: up to where lines are
    line, row, before = 1, 0, 0  # before: the line of the value before
    while at < len(text):
        line, counted = line + text.count("\n", counted, at), at
        if text[at] == ("]" if listed else "["):
            at, listed = _skip(text, at + 1), not listed
            continue
        row += 1
        place, before = Place(file, line, row if line == before else 0), line
        value, at = _value(file, text, at, place)
        yield value
        at = _skip(text, at)
        if listed and text.startswith(",", at):
            at = _skip(text, at + 1)
        elif listed and not text.startswith("]", at):
            raise _bad(file, text, json.JSONDecodeError("Expecting ',' or ']'", text, at))
    if listed:
        raise _bad(file, text, json.JSONDecodeError("Expecting ']'", text, at))


def _value(file: Path, text: str, at: int, place: Place) -> tuple[Raw | Fault, int]:
    """The value that begins here, and where it ends."""
    try:
        try:
            value, end = _DECODER.raw_decode(text, at)
        except Repeated as error:
            return _twice(place, error), json.JSONDecoder().raw_decode(text, at)[1]
    except json.JSONDecodeError as error:
        raise _bad(file, text, error) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested without end
        why = "brackets nested too deep" if isinstance(error, RecursionError) else str(error)
        raise BadData(str(place), expected="JSON objects", found=f"{shown(text[at : at + 50], 40)} ({why})") from None
    return Raw(place, value), end


def _skip(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _bad(file: Path, text: str, error: json.JSONDecodeError) -> BadData:
    rest = text[error.pos : error.pos + 200].partition("\n")[0].strip()
    found = f"{shown(rest, 40) if error.pos < len(text) else 'the end of the file'} ({error.msg}, column {error.colno})"
    return BadData(f"{file}:{error.lineno}", expected="JSON objects", found=found)
