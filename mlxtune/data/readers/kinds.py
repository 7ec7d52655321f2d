"""What a file is, told from its bytes whatever its name says, and its text as UTF-8."""

import io
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mlxtune.errors import BadData

HEAD = 4096  # bytes that are looked at

UNPACK, EXPORT = "Unpack it first.", "Save it as CSV, JSON lines or parquet."


class Kind(NamedTuple):
    """A kind of file that is no data file, by what its bytes match."""

    pattern: bytes
    name: str
    remedy: str


# The more special of two patterns stands first.
KINDS = (
    Kind(rb"\x1f\x8b", "a gzip file", UNPACK),
    Kind(rb"BZh[1-9]1AY&SY", "a bzip2 file", UNPACK),
    Kind(rb"\x28\xb5\x2f\xfd", "a Zstandard file", UNPACK),
    Kind(rb"\xfd7zXZ\x00", "an xz file", UNPACK),
    Kind(rb"\x04\x22\x4d\x18", "an LZ4 file", UNPACK),
    Kind(rb"7z\xbc\xaf", "a 7z archive", UNPACK),
    Kind(rb"PK\x03\x04.*(?:\[Content_Types\]|xl/|_rels/)", "an Excel or other Office file", EXPORT),
    Kind(rb"PK\x03\x04", "a zip archive", UNPACK),
    Kind(rb".{257}ustar", "a tar archive", UNPACK),
    Kind(rb"\xd0\xcf\x11\xe0", "an old Excel or other Office file", EXPORT),
    Kind(rb"ARROW1\x00\x00", "an Arrow file", EXPORT),
    Kind(rb"SQLite format 3\x00", "an SQLite database", EXPORT),
    Kind(rb"Obj\x01", "an Avro file", EXPORT),
    Kind(rb"ORC\x0a|\x93NUMPY|\x89HDF|\x80[\x02-\x05]", "a table of another program", EXPORT),
    Kind(rb"%PDF-", "a PDF document", "Save its text as .txt."),
    Kind(
        rb"version https://git-lfs", "a pointer to a file that Git LFS has not fetched", "Fetch the file: git lfs pull"
    ),
)
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


def is_parquet(file: Path) -> bool:
    """Whether the bytes are those of parquet. Raises BadData for other kinds of files that hold no text."""
    with file.open("rb") as stream:
        head = stream.read(HEAD)
        if head.startswith(b"PAR1"):
            stream.seek(max(stream.seek(0, io.SEEK_END) - 4, 0))
            return stream.read() == b"PAR1"
    for kind in KINDS:
        if re.match(kind.pattern, head, re.DOTALL):
            raise BadData(str(file), expected="a data file", found=kind.name, remedy=kind.remedy)
    return False


def utf8(file: Path) -> BinaryIO:
    """The file at its text's first byte. UTF-16 and UTF-32 are read as what they are and given as UTF-8."""
    stream = file.open("rb")
    head = stream.read(HEAD)
    mark, encoding = _encoding(head)
    if encoding != "utf-8":
        with stream:
            return io.BytesIO(_decoded(file, (head + stream.read())[len(mark) :], encoding).encode())
    stream.seek(len(mark))
    return stream


def _encoding(head: bytes) -> tuple[bytes, str]:
    """The byte order mark, if there is one, and the encoding."""
    for mark, encoding in ENCODINGS:
        if head.startswith(mark):
            return mark, encoding
    return b"", next((encoding for pattern, encoding in BARE if pattern.match(head)), "utf-8")


def text(file: Path) -> str:
    """The whole text. Raises BadData with the line where it is none."""
    with utf8(file) as stream:
        try:
            return stream.read().decode("utf-8")
        except UnicodeDecodeError:
            raise undecodable(file) from None


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
