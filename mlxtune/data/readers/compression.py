"""Compressed files, known by the last ending of their names: what is in them as a stream, never whole in memory.

A file of little size may hold gigabytes. What may come out of one is bounded by its size, as text seldom shrinks to a
hundredth: the bound stops a file that was made to fill a memory.
"""

import io
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from tempfile import TemporaryFile
from typing import Any, BinaryIO, NamedTuple, cast

from mlxtune.data.readers import decompressors, signatures
from mlxtune.data.readers.decompressors import Decompressor
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData
from mlxtune.format import shown, size
from mlxtune.storage.files import cache_folder

PIECE = 1024  # compressed bytes that are unpacked at once: zstandard gives all that they hold, up to 32 MiB
BLOCK = 2**16  # unpacked bytes that are asked for at once
RATIO, SLACK = 100, 2**24  # at most so many bytes for each byte of the file, and so many more


class Compression(NamedTuple):
    """A way to compress, under the name that its signature has."""

    name: str
    begin: Callable[[File], Decompressor]


COMPRESSIONS: Mapping[str, Compression] = {
    ".gz": Compression(signatures.GZIP, decompressors.gzip),
    ".bz2": Compression(signatures.BZIP2, decompressors.bzip2),
    ".xz": Compression(signatures.XZ, decompressors.xz),
    ".zst": Compression(signatures.ZSTANDARD, decompressors.zstandard),
}


def bare(file: File) -> PurePath:
    """The file's own name without the ending of a compression.

    >>> bare(Path("rows.jsonl.gz")).name, bare(Path("rows.jsonl")).name
    ('rows.jsonl', 'rows.jsonl')
    """
    return PurePath(file.name).with_suffix("") if _of(file) else PurePath(file.name)


def opened(file: File) -> BinaryIO:
    """The bytes of the file, or those that are compressed in it, which cannot be sought in."""
    compression = _of(file)
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file, compression), BLOCK)) if compression else file.open("rb")


def seekable(file: File) -> BinaryIO:
    """The same, unpacked on the disk where the file is compressed, for formats that are read from their end."""
    if not _of(file):
        return file.open("rb") if isinstance(file, Path) else file.seekable()
    cache_folder().mkdir(parents=True, exist_ok=True)
    whole = TemporaryFile(dir=cache_folder())  # noqa: SIM115  # the caller closes it
    with opened(file) as stream:
        shutil.copyfileobj(stream, whole, BLOCK)
    whole.seek(0)
    return cast(BinaryIO, whole)


def check(file: File) -> None:
    """Raises BadData for a compressed file that is of another kind, cut off, damaged or too large when unpacked, before
    a row of it is made: it is read to its end. One of another machine is told by its head, the rest as it comes."""
    if (compression := _of(file)) is None:
        return
    with file.open("rb") as packed:
        kind = signatures.of(head := packed.read(signatures.HEAD))
    if kind is None or kind.name != compression.name:
        found = kind.name if kind else "something else" if head else "an empty file"
        raise BadData(str(file), expected=compression.name, found=found, remedy="Name the file as what it is.")
    with opened(file) as stream:
        while isinstance(file, Path) and stream.read(BLOCK):
            pass


def _of(file: File) -> Compression | None:
    return COMPRESSIONS.get(file.suffix.lower())


class _Unpacked(io.RawIOBase):
    """What is compressed in a file: one stream after another, zero bytes between them as tapes leave them."""

    def __init__(self, file: File, compression: Compression) -> None:
        self._file, self._compression = file, compression
        self._stream = compression.begin(file)
        self._packed = file.open("rb")
        self._came = self._given = 0  # bytes, compressed and not

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._packed.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        made = self._next(len(buffer))
        buffer[: len(made)] = made
        self._given += len(made)
        if self._given > (limit := RATIO * self._held() + SLACK):
            expected = f"at most {size(limit)} when unpacked, {RATIO} times its size"
            remedy = "Unpack it first, if it is right that it holds so much."
            raise BadData(str(self._file), expected=expected, found="more", remedy=remedy)
        return len(made)

    def _held(self) -> int:
        """Compressed bytes: all, or those that came where it is not said how many there are."""
        whole = self._file.stat().st_size if isinstance(self._file, Path) else self._file.size
        return self._came if whole is None else whole

    def _next(self, most: int) -> bytes:
        """At least a byte, or none at the end of the last stream."""
        while True:
            data = b""
            if self._stream.eof:
                data = self._after_stream()
                if not data:
                    return b""
                self._stream = self._compression.begin(self._file)
            elif self._stream.needs_input:
                data = self._more()
            is_last = not data and self._stream.needs_input
            if made := self._decompressed(data, most):
                return made
            if is_last and not self._stream.eof:
                raise self._broken(f"one that is cut off after {self._came:,} bytes")

    def _more(self) -> bytes:
        data = self._packed.read(PIECE)
        self._came += len(data)
        return data

    def _after_stream(self) -> bytes:
        """The beginning of the stream that follows."""
        data = self._stream.unused_data.lstrip(b"\0")
        while not data and (more := self._more()):
            data = more.lstrip(b"\0")
        return data

    def _decompressed(self, data: bytes, most: int) -> bytes:
        try:
            return self._stream.decompress(data, most)
        except Exception as error:  # each of the modules raises an exception of its own
            words = shown(str(error) or type(error).__name__, 100)[1:-1]
            raise self._broken(f"one that is damaged near byte {self._came:,} ({words})") from None

    def _broken(self, found: str) -> BadData:
        return BadData(str(self._file), expected=f"{self._compression.name} that is whole", found=found)
