"""JSON values of any layout, one after another or in lists, decoded as the text comes: no more of it is held than the
value that is read, and a block.

json's own decoder finds where a value ends, and tells a fault by its place in the text that it is given. That text may
end inside a value: what then looks like a fault near its end is looked at again when more of it has been read.
"""

import io
import json
import re
from typing import Any

from mlxtune.data.faults import Fault, Place
from mlxtune.data.readers import unicode
from mlxtune.data.readers.json_text import DECODER, Repeated, twice
from mlxtune.data.readers.raw import Raw, Rows
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData
from mlxtune.format import shown

BLOCK = 2**16  # characters
_BLANKS = re.compile(r"[ \t\r\n]*")
_TOKEN = 16  # characters: a literal, an escape or half of a pair of them that the end of the text has cut has fewer
_QUOTED = 200  # characters of the text that a message may need


class Window:
    """A part of a file's text, and where in the file it is."""

    def __init__(self, stream: io.TextIOBase) -> None:
        self._stream = stream
        self._line, self._column, self._counted = 1, 0, 0  # of the character of the text up to which is counted
        self.text, self.at, self.is_last = "", 0, False
        self.more()

    def more(self) -> None:
        """Let go of what was read, and hold as much again as is left, at least a block."""
        self.place(self.at)
        rest = self.text[self.at :]
        new = self._stream.read(max(BLOCK, len(rest)))
        self.text, self.at, self._counted, self.is_last = rest + new, 0, 0, not new

    def place(self, at: int) -> tuple[int, int]:
        """Line and column, from 1 and from 0, of a character that is not before the one last asked for."""
        newline = self.text.rfind("\n", self._counted, at)
        self._line += self.text.count("\n", self._counted, at)
        self._column = at - newline - 1 if newline >= 0 else self._column + at - self._counted
        self._counted = at
        return self._line, self._column

    def peek(self) -> str:
        """The next character that is no blank; "" at the end."""
        while True:
            blanks = _BLANKS.match(self.text, self.at)
            self.at = blanks.end() if blanks else self.at
            if self.at < len(self.text) or self.is_last:
                return self.text[self.at : self.at + 1]
            self.more()

    def value(self, decoder: json.JSONDecoder) -> Any:
        """The value that begins here. Raises as the decoder does."""
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.is_last or not self._may_be_cut(error):
                    raise
            else:
                if end < len(self.text) or self.is_last:  # of a number that the text ends in, more may follow
                    self.at = end
                    return value
            self.more()

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated string") or error.pos + _TOKEN >= len(self.text)

    def bad(self, file: File, pos: int, words: str) -> BadData:
        """The message of a fault at a place of the text."""
        while not self.is_last and len(self.text) - pos < _QUOTED:
            pos -= self.at
            self.more()
        line, column = self.place(pos)
        rest = self.text[pos : pos + _QUOTED].partition("\n")[0].strip()
        found = f"{shown(rest, 40) if pos < len(self.text) else 'the end of the file'} ({words}, column {column + 1})"
        return BadData(f"{file}:{line}", expected="JSON objects", found=found)


def rows(file: File) -> Rows:
    """Each value with the line that it begins on; a list stands for its elements."""
    with io.TextIOWrapper(unicode.utf8(file), encoding="utf-8", newline="") as stream:
        try:
            yield from _rows(file, Window(stream))
        except UnicodeDecodeError:
            raise unicode.undecodable(file) from None


def _rows(file: File, window: Window) -> Rows:
    row, before, is_list = 0, 0, False  # before: the line of the value before
    while following := window.peek():
        if following == ("]" if is_list else "["):
            window.at, is_list = window.at + 1, not is_list
            continue
        row += 1
        line, _ = window.place(window.at)
        place, before = Place(file, line, row if line == before else 0), line
        yield _value(file, window, place)
        if is_list and (following := window.peek()) == ",":
            window.at += 1
        elif is_list and following != "]":
            raise window.bad(file, window.at, "Expecting ',' or ']'" if following else "Expecting ']'")
    if is_list:
        raise window.bad(file, window.at, "Expecting ']'")


def _value(file: File, window: Window, place: Place) -> Raw | Fault:
    """The value that begins here."""
    try:
        try:
            return Raw(place, window.value(DECODER))
        except Repeated as error:
            window.value(json.JSONDecoder())  # to its end
            return twice(place, error)
    except json.JSONDecodeError as error:
        raise window.bad(file, error.pos, error.msg) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets nested without end
        why = "brackets nested too deep" if isinstance(error, RecursionError) else str(error)
        begun = shown(window.text[window.at : window.at + 50], 40)
        raise BadData(str(place), expected="JSON objects", found=f"{begun} ({why})") from None
