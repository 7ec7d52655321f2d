"""What unpacks one compressed stream, a piece at a time. Each takes the name of the file, for a message."""

import bz2
import lzma
import sys
import zlib
from typing import Any, Protocol

from mlxtune.data.readers.raw import missing
from mlxtune.data.remote.file import File

XZ_MEMORY = 2**28  # bytes for the window of an xz file; `xz -9` takes a quarter of it


class Decompressor(Protocol):
    """One compressed stream; a file may be several. bz2, lzma and Python 3.14's compression.zstd have these names."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor under the names of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(zlib.MAX_WBITS + 16)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Zstandard:
    """The decompressor of the package zstandard, which knows no `max_length`, under the names of the others."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._made = inner, memoryview(b"")

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof) and not self._made

    @property
    def needs_input(self) -> bool:
        return not self._made

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._made = memoryview(self._inner.decompress(data))
        given, self._made = self._made[:max_length], self._made[max_length:]
        return bytes(given)


def gzip(_: File) -> Decompressor:
    return _Gzip()


def bzip2(_: File) -> Decompressor:
    return bz2.BZ2Decompressor()


def xz(_: File) -> Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)


def zstandard(file: File) -> Decompressor:
    try:
        if sys.version_info >= (3, 14):
            from compression.zstd import ZstdDecompressor

            return ZstdDecompressor()
    except ImportError:  # a Python that was built without it
        pass
    try:
        import zstandard as package
    except ImportError:
        raise missing("zstandard", f"to read {file}") from None
    return _Zstandard(package.ZstdDecompressor().decompressobj())
