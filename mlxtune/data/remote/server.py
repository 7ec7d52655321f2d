"""What gives the bytes of a remote file: HTTP, an object store, or a copy on this machine."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, NamedTuple, Protocol

STEP = 2**22  # bytes that are asked for at once where each asking is a journey of its own


class Facts(NamedTuple):
    """What a server says of a file. size: None where it does not say. known_by: what tells this content from another
    under the same name, as an ETag; "" for nothing."""

    size: int | None
    known_by: str


class Lost(Exception):
    """No answer, or its end before all of it had come: the next try may fare better. The text says what happened."""

    def __init__(self, why: str = "the connection was cut") -> None:
        super().__init__(why)


class NoParts(Exception):
    """The server gives whole files alone."""


class Body(Protocol):
    """The bytes of a file from some place on."""

    def read(self, most: int) -> bytes:
        """At least a byte, or none at the end. Raises Lost."""

    def close(self) -> None: ...


class Server(Protocol):
    """One file, from where it lies. Each call raises Lost, or BadData for what no other try would mend."""

    def facts(self) -> Facts: ...

    def begin(self, at: int) -> Body:
        """Raises NoParts where only a beginning at 0 can be had."""

    def part(self, start: int, stop: int) -> bytes:
        """Exactly these bytes. Raises NoParts."""


class Steps:
    """A Body of parts, each asked for when the one before has been read."""

    def __init__(self, part: Callable[[int, int], bytes], at: int, size: int) -> None:
        self._part, self._at, self._size = part, at, size
        self._held = memoryview(b"")

    def read(self, most: int) -> bytes:
        if not self._held and self._at < self._size:
            self._held = memoryview(self._part(self._at, min(self._at + STEP, self._size)))
            self._at += len(self._held)
        given, self._held = self._held[:most], self._held[most:]
        return bytes(given)

    def close(self) -> None:
        self._held = memoryview(b"")


class Copy:
    """A file that was fetched whole, into one without a name on this machine, which is gone when nothing reads it."""

    def __init__(self, file: IO[bytes], facts: Facts) -> None:
        self._number, self._facts = os.dup(file.fileno()), facts

    def __del__(self) -> None:
        os.close(self._number)

    def facts(self) -> Facts:
        return self._facts

    def begin(self, at: int) -> Body:
        return Steps(self.part, at, self._facts.size or 0)

    def part(self, start: int, stop: int) -> bytes:
        return os.pread(self._number, stop - start, start)


class Here:
    """A file that a client's cache has on this machine, under the name that it has elsewhere."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def facts(self) -> Facts:
        return Facts(self._path.stat().st_size, "")

    def begin(self, at: int) -> Body:
        return Steps(self.part, at, self._path.stat().st_size)

    def part(self, start: int, stop: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(start)
            found = file.read(stop - start)
        if len(found) < stop - start:
            raise Lost("its end")
        return found


def first(body: Body, most: int) -> bytes:
    """So many bytes from here, or all there are."""
    found = b""
    while len(found) < most and (piece := body.read(most - len(found))):
        found += piece
    return found


def begun(server: Server) -> Facts:
    """What the server says when it is asked for the file, of which nothing is read."""
    with closing(server.begin(0)):
        return server.facts()
