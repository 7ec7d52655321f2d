"""What a file is, told from its first bytes whatever its name says."""

import re
from typing import NamedTuple

HEAD = 4096  # bytes that are looked at

GZIP, BZIP2, XZ, ZSTANDARD = "a gzip file", "a bzip2 file", "an xz file", "a Zstandard file"
PARQUET, ARROW = b"PAR1", b"ARROW1\0\0"
UNPACK, EXPORT = "Unpack it first.", "Save it as CSV, JSON lines or parquet."


class Kind(NamedTuple):
    """A kind of file that holds no rows by itself, by what its bytes match."""

    pattern: bytes
    name: str
    remedy: str


def _packed(pattern: bytes, name: str, ending: str) -> Kind:
    return Kind(pattern, name, f"Unpack it first, or let its name end in {ending} after the ending of what it holds.")


# A text may be one; whatever else should have rows and begins so is what a server sends in the place of a file.
HTML = Kind(
    rb"(?i:\s*<(?:!doctype html|html[\s>]))",
    "a page of HTML",
    "If it is the page about a file, name what its download button leads to.",
)

# The more special of two patterns stands first.
KINDS = (
    _packed(rb"\x1f\x8b", GZIP, ".gz"),
    _packed(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", BZIP2, ".bz2"),
    _packed(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", ZSTANDARD, ".zst"),
    _packed(rb"\xfd7zXZ\x00", XZ, ".xz"),
    Kind(rb"\x04\x22\x4d\x18", "an LZ4 file", UNPACK),
    Kind(rb"7z\xbc\xaf", "a 7z archive", UNPACK),
    Kind(rb"PK\x03\x04.*(?:\[Content_Types\]|xl/|_rels/)", "an Excel or other Office file", EXPORT),
    Kind(rb"PK\x03\x04", "a zip archive", UNPACK),
    Kind(rb".{257}ustar", "a tar archive", UNPACK),
    Kind(rb"\xd0\xcf\x11\xe0", "an old Excel or other Office file", EXPORT),
    Kind(rb"SQLite format 3\x00", "an SQLite database", EXPORT),
    Kind(rb"Obj\x01", "an Avro file", EXPORT),
    Kind(rb"ORC\x0a|\x93NUMPY|\x89HDF|\x80[\x02-\x05]", "a table of another program", EXPORT),
    Kind(rb"%PDF-", "a PDF document", "Save its text as .txt."),
    Kind(
        rb"version https://git-lfs", "a pointer to a file that Git LFS has not fetched", "Fetch the file: git lfs pull"
    ),
)


def of(head: bytes) -> Kind | None:
    """The kind of a file that begins so; None for text and for tables that can be read."""
    return next((kind for kind in KINDS if re.match(kind.pattern, head, re.DOTALL)), None)
