"""Rows as JSON: one object a line, objects of several lines one after another, or lists of objects.

Which of them a file is, its first lines tell, whatever its name says. Line by line, all that is wrong is found at once;
otherwise a fault of syntax ends the reading, as what follows it cannot be told apart.
"""

import json
import re
from typing import BinaryIO, Literal

from mlxtune.data.faults import Fault, Place
from mlxtune.data.readers import json_values, unicode
from mlxtune.data.readers.json_text import DECODER, Repeated, loads, twice
from mlxtune.data.readers.raw import Raw, Rows
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData
from mlxtune.format import shown

Layout = Literal["lines", "values", "table"]

_LOOKED_AT = 1_000_000  # characters of a text that may be rows
_BLOCK = 2**16  # bytes of a line that are looked at
_COLUMN = re.compile(rb"[A-Za-z_][\w .-]*")


def rows(file: File) -> Rows:
    with unicode.utf8(file) as stream:
        layout = _layout(stream)
    if layout == "table":
        raise BadData(str(file), expected="JSON objects", found="a table", remedy="Name the file .csv.")
    if layout == "values":
        yield from json_values.rows(file)
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
    """The next line that is not blank. Of one that begins a list, which may be all of the file, a part."""
    while line := stream.readline(_BLOCK):
        if begun := line.lstrip():
            whole = begun.startswith(b"[") or line.endswith(b"\n")
            return (begun if whole else begun + stream.readline()).rstrip()
    return b""


def _is_header(line: bytes) -> bool:
    cells = re.split(rb"[,;\t]", line)
    return len(cells) > 1 and all(_COLUMN.fullmatch(cell.strip(b' "')) for cell in cells)


def _is_begun(line: bytes) -> bool:
    """Whether a line is the beginning of an object that goes on in the next line."""
    try:
        DECODER.decode(line.decode("utf-8"))
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


def _lines(file: File, stream: BinaryIO) -> Rows:
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
        return twice(place, error)
    except ValueError as error:  # a number of thousands of digits, brackets nested without end
        return Fault(place, "a JSON object", f"{shown(text, 40)} ({error})")
