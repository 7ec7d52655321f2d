"""The text of a file as UTF-8, in whatever encoding of Unicode it is written."""

import codecs
import io
import re
import shutil
from typing import Any, BinaryIO, cast

from mlxtune.data.readers import compression
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData

HEAD = 8  # bytes that tell the encoding
BLOCK = 2**16  # bytes or characters that are decoded at once

ENCODINGS = (  # by their byte order marks; the longer of two stands first
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
# Two ASCII characters begin every JSON text and nearly every table: where their zero bytes are tells the encoding.
BARE = (
    (re.compile(rb"[^\0]\0\0\0[^\0]\0\0\0", re.DOTALL), "utf-32-le"),
    (re.compile(rb"\0\0\0[^\0]\0\0\0[^\0]", re.DOTALL), "utf-32-be"),
    (re.compile(rb"[^\0]\0[^\0]\0", re.DOTALL), "utf-16-le"),
    (re.compile(rb"\0[^\0]\0[^\0]", re.DOTALL), "utf-16-be"),
)


def utf8(file: File) -> BinaryIO:
    """The file at its text's first byte. UTF-16 and UTF-32 are read as what they are and given as UTF-8."""
    with compression.opened(file) as stream:
        mark, encoding = _encoding(stream.read(HEAD))
    stream = compression.opened(file)
    stream.read(len(mark))
    if encoding == "utf-8":
        return stream
    return cast(BinaryIO, io.BufferedReader(_Recoded(file, stream, encoding), BLOCK))


def _encoding(head: bytes) -> tuple[bytes, str]:
    """The byte order mark, if there is one, and the encoding."""
    for mark, encoding in ENCODINGS:
        if head.startswith(mark):
            return mark, encoding
    return b"", next((encoding for pattern, encoding in BARE if pattern.match(head)), "utf-8")


def whole(file: File) -> str:
    """The whole text, in memory once. Raises BadData with the line where it is none."""
    made = io.StringIO(newline="")
    with io.TextIOWrapper(utf8(file), encoding="utf-8", newline="") as stream:
        try:
            shutil.copyfileobj(stream, made, BLOCK)
        except UnicodeDecodeError:
            raise undecodable(file) from None
    return made.getvalue()


def undecodable(file: File) -> BadData:
    """The first line that is not UTF-8."""
    with utf8(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return _not_text(f"{file}:{number}", line, error)
    raise AssertionError(file)


class _Recoded(io.RawIOBase):
    """The UTF-8 of a text in another encoding. Raises BadData with the line where it is none."""

    def __init__(self, file: File, stream: BinaryIO, encoding: str) -> None:
        self._file, self._stream, self._line = file, stream, 1
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._made = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        while not self._made and (block := self._stream.read(BLOCK)):
            self._made = memoryview(self._decoded(block).encode())
        if not self._made:
            self._decoded(b"")  # half a character may be left
        given, self._made = self._made[: len(buffer)], self._made[len(buffer) :]
        buffer[: len(given)] = given
        return len(given)

    def _decoded(self, block: bytes) -> str:
        try:
            text = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:  # its object is the block and what was left of the one before
            before = error.object[: error.start].decode(error.encoding, "replace")
            raise _not_text(f"{self._file}:{self._line + before.count(chr(10))}", error.object, error) from None
        self._line += text.count("\n")
        return text


def _not_text(where: str, data: bytes, error: UnicodeDecodeError) -> BadData:
    found, expected = f"the byte 0x{data[error.start]:02x}", f"{error.encoding.upper()} text"
    return BadData(where, expected=expected, found=found, remedy="Save the file as UTF-8.")
