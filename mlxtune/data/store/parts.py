"""The flat files of a store, which grow at their ends and are read at any place; or the same in memory.

They are read with `pread`, not mapped: a process dies of a mapped file that is cut short, and what is mapped counts as
its memory.
"""

import errno
import os
from pathlib import Path
from threading import Lock
from typing import Protocol
from weakref import finalize

from mlxtune.errors import RunStopped

NAMES = ("rows", "tokens", "masks", "lines", "refused")


class Part(Protocol):
    """Bytes that grow at their end."""

    @property
    def size(self) -> int: ...

    def append(self, content: bytes) -> None: ...

    def read(self, begin: int, size: int) -> bytes: ...


class InMemory:
    """A part that no file holds."""

    def __init__(self, content: bytes = b"") -> None:
        self._bytes = bytearray(content)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._bytes)

    def append(self, content: bytes) -> None:
        """Add bytes at the end."""
        self._bytes += content

    def read(self, begin: int, size: int) -> bytes:
        """The bytes begin..begin + size - 1."""
        return bytes(self._bytes[begin : begin + size])


class OnDisk:
    """A part in a file, open for as long as anything refers to it: threads read it, whoever deletes its name."""

    def __init__(self, path: Path, *, grows_from: int | None = None) -> None:
        """grows_from: bytes that are kept of what is there, and written behind; None: it is only read."""
        flags = os.O_RDONLY if grows_from is None else os.O_RDWR | os.O_CREAT
        self.path, self._lock = path, Lock()
        self._file = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
        finalize(self, os.close, self._file)
        if grows_from is not None:
            os.ftruncate(self._file, grows_from)
        self.size = os.fstat(self._file).st_size

    def append(self, content: bytes) -> None:
        """Add bytes at the end. Raises OSError."""
        with self._lock:
            os.lseek(self._file, self.size, os.SEEK_SET)
            view = memoryview(content)
            while view:
                view = view[os.write(self._file, view) :]
        self.size += len(content)

    def read(self, begin: int, size: int) -> bytes:
        """The bytes begin..begin + size - 1. Raises RunStopped where the disk does not have them any more."""
        try:
            found = self._read(begin, size)
        except OSError as fault:
            raise gone(self.path, os.strerror(fault.errno or errno.EIO)) from fault
        if len(found) != size:
            raise gone(self.path, "an end before it")
        return found

    def _read(self, begin: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self._file, size, begin)
        with self._lock:  # Windows
            os.lseek(self._file, begin, os.SEEK_SET)
            return os.read(self._file, size)

    def flush(self) -> None:
        """Down to the disk."""
        os.fsync(self._file)


def gone(path: Path, found: str) -> RunStopped:
    """What is said of tokens that are not as they were written."""
    remedy = "Start again: the tokens are made anew from the data's files, and a run goes on from its last checkpoint."
    return RunStopped(str(path), expected="the rows' tokens as they were kept", found=found, remedy=remedy)
