"""The formats of data files: how each is known, by its bytes or its name, and the reader of its rows."""

import re
from collections.abc import Callable, Mapping
from functools import partial

from mlxtune.data.faults import Place
from mlxtune.data.readers import arrow_rows, compression, csv_rows, json_rows, signatures, unicode
from mlxtune.data.readers.raw import Document, Raw, Rows
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData
from mlxtune.format import shown

Reader = Callable[[File], Rows]


def is_named_as_data(file: File) -> bool:
    """Whether a file of this name can be read.

    >>> from pathlib import Path
    >>> is_named_as_data(Path("rows.JSONL.gz")), is_named_as_data(Path("README.md"))
    (True, False)
    """
    return _suffix(file) in READERS


def rows(file: File) -> Rows:
    """The rows of a file in any format, compressed or not."""
    compression.check(file)
    return _reader(file)(file)


def _suffix(file: File) -> str:
    return compression.bare(file).suffix.lower()


def _reader(file: File) -> Reader:
    """By the bytes where they tell, else by the name."""
    with compression.opened(file) as stream:
        head = stream.read(signatures.HEAD)
    if head.startswith(signatures.PARQUET) and _ends_as_parquet(file):
        return arrow_rows.parquet
    if head.startswith(signatures.ARROW):
        return arrow_rows.ipc
    kind = signatures.of(head)
    if kind is None and _suffix(file) != ".txt" and re.match(signatures.HTML.pattern, head):
        kind = signatures.HTML
    if kind:
        raise BadData(str(file), expected="a data file", found=kind.name, remedy=kind.remedy)
    if (reader := READERS.get(_suffix(file))) is None:
        expected, found = f"a file that ends in one of {', '.join(READERS)}", compression.bare(file)
        remedy = f"Any of them may be compressed, as rows.jsonl.gz: {', '.join(compression.COMPRESSIONS)}."
        raise BadData(str(file), expected=expected, found=shown(found.suffix or found.name, 40), remedy=remedy)
    return reader


def _ends_as_parquet(file: File) -> bool:
    with compression.seekable(file) as stream:
        stream.seek(max(stream.seek(0, 2) - len(signatures.PARQUET), 0))
        return stream.read() == signatures.PARQUET


def _document(file: File) -> Rows:
    text = unicode.whole(file)
    if "\0" in text:
        where = f"{file}:{text.count(chr(10), 0, text.index(chr(0))) + 1}"
        raise BadData(where, expected="text", found="a NUL byte, as in a file that was cut off or is no text")
    if json_rows.are_rows(text):
        raise BadData(str(file), expected="text", found="JSON objects", remedy="Name the file .jsonl.")
    if text.strip():
        yield Raw(Place(file, 1), Document(text.replace("\r\n", "\n")))


READERS: Mapping[str, Reader] = {
    ".jsonl": json_rows.rows,
    ".ndjson": json_rows.rows,
    ".json": json_rows.rows,
    ".csv": csv_rows.rows,
    ".tsv": partial(csv_rows.rows, tabs=True),
    ".parquet": arrow_rows.parquet,
    ".txt": _document,
    ".arrow": arrow_rows.ipc,
}
