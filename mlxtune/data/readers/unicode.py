"""The text of a file as UTF-8, in whatever encoding of Unicode it is written."""

import io
import re
import shutil
from pathlib import Path
from typing import BinaryIO

from mlxtune.data.readers import compression
from mlxtune.errors import BadData

HEAD = 8  # bytes that tell the encoding
BLOCK = 2**16  # characters that are decoded at once

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


def utf8(file: Path) -> BinaryIO:
    """The file at its text's first byte. UTF-16 and UTF-32 are read as what they are and given as UTF-8."""
    with compression.opened(file) as stream:
        mark, encoding = _encoding(stream.read(HEAD))
    stream = compression.opened(file)
    stream.read(len(mark))
    if encoding == "utf-8":
        return stream
    with stream:
        return io.BytesIO(_decoded(file, stream.read(), encoding).encode())


def _encoding(head: bytes) -> tuple[bytes, str]:
    """The byte order mark, if there is one, and the encoding."""
    for mark, encoding in ENCODINGS:
        if head.startswith(mark):
            return mark, encoding
    return b"", next((encoding for pattern, encoding in BARE if pattern.match(head)), "utf-8")


def whole(file: Path) -> str:
    """The whole text, in memory once. Raises BadData with the line where it is none."""
    made = io.StringIO(newline="")
    with io.TextIOWrapper(utf8(file), encoding="utf-8", newline="") as stream:
        try:
            shutil.copyfileobj(stream, made, BLOCK)
        except UnicodeDecodeError:
            raise undecodable(file) from None
    return made.getvalue()


def undecodable(file: Path) -> BadData:
    """The first line that is not UTF-8."""
    with utf8(file) as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return _not_text(f"{file}:{number}", line, error)
    raise AssertionError(file)


def _decoded(file: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "replace").count("\n") + 1
        raise _not_text(f"{file}:{line}", data, error) from None


def _not_text(where: str, data: bytes, error: UnicodeDecodeError) -> BadData:
    found, expected = f"the byte 0x{data[error.start]:02x}", f"{error.encoding.upper()} text"
    return BadData(where, expected=expected, found=found, remedy="Save the file as UTF-8.")
