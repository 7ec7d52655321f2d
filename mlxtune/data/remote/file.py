"""A file of another machine: read from its beginning to its end, or at any place, in bounded memory.

A connection that is lost is made again from where it was, a few times. A file is never shorter than its server says:
its last byte is counted before its end is believed.
"""

import io
import time
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, TypeVar, cast

from mlxtune.data.remote.server import Body, Copy, Facts, Lost, NoParts, Server, first
from mlxtune.errors import BadData
from mlxtune.storage.files import cache_folder

T = TypeVar("T")

HEAD = 2**16  # bytes from the beginning that are kept: formats and encodings are told by them, more than once
BUFFER = 2**16  # bytes
PAUSES = (0.5, 1.0, 2.0)  # seconds before each further try
AGAIN = "Try again later, or fetch the file first and name the copy."


class Called:
    """What a file of another machine is called by: its URL without secrets, and its own name."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self.name, self.suffix = url, name, Path(name).suffix

    def __str__(self) -> str:
        return self._url

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Called) and str(other) == self._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __reduce__(self) -> tuple[type["Called"], tuple[str, str]]:
        """In another process it is a name: connections do not cross."""
        return Called, (self._url, self.name)


class Remote(Called):
    """A file by its server. It is called by its URL without secrets, and equal to what is called the same.

    name: the file's own. known_as: what names this very content already, as a path in a commit does; "" for nothing.
    """

    def __init__(self, url: str, name: str, server: Server, known_as: str = "") -> None:
        super().__init__(url, name)
        self.note, self.known_as = "", known_as  # note: what is to be said of the server
        self._server = server
        self._head: bytes | None = None
        self._waiting: Body | None = None  # the connection that gave the head, and stands at its end

    @property
    def size(self) -> int | None:
        """In bytes; None where the server does not say."""
        return self._server.facts().size if self.head else 0

    def known_by(self) -> tuple[str, ...]:
        """What another content of this name would not have, asked of the server, or the hash of what it gave."""
        if self.known_as:
            return (self.known_as,)
        facts = self.persistently(self._server.facts)
        if not facts.known_by:
            _ = self.head
            facts = self._server.facts()
        return self._url, facts.known_by, str(facts.size)

    @property
    def head(self) -> bytes:
        """The first bytes. Where nothing would tell this content from another, the file is fetched to be hashed."""
        if self._head is None:
            self._head = self.persistently(self._first)
            if not self.known_as and not self._server.facts().known_by:
                self.note = f"{self}: the server does not say when it changes, so it was fetched whole, and hashed."
                self._fetch()
        return self._head

    def _first(self) -> bytes:
        body = self._server.begin(0)
        found, size = first(body, HEAD), self._server.facts().size
        if len(found) < HEAD:
            body.close()
            if size is not None and len(found) < size:
                raise Lost(f"the connection was cut after {len(found):,} of {size:,} bytes")
        else:
            self._waiting = body
        return found

    def open(self, mode: str = "rb") -> BinaryIO:
        """All bytes, in order."""
        assert mode == "rb"
        return cast(BinaryIO, io.BufferedReader(_Forward(self), BUFFER))

    def seekable(self) -> BinaryIO:
        """The bytes in any order, for formats that are read from their end."""
        if self.size is None:
            self._fetch()
        self.close()
        return cast(BinaryIO, io.BufferedReader(_Anywhere(self, self.size or 0), BUFFER))

    def body(self, at: int) -> Body:
        """The connection that stands there, or a new one."""
        if at == HEAD and self._waiting:
            waiting, self._waiting = self._waiting, None
            return waiting
        return self._server.begin(at)

    def part(self, start: int, stop: int) -> bytes:
        """Exactly these bytes. Of a server that gives whole files alone the whole one is fetched."""
        try:
            return self.persistently(lambda: self._server.part(start, stop), start)
        except NoParts:
            self._fetch()
            return self._server.part(start, stop)

    def close(self) -> None:
        if self._waiting:
            self._waiting.close()
            self._waiting = None

    def persistently(self, ask: Callable[[], T], at: int = 0) -> T:
        """What is asked for, in a few tries."""
        for pause in PAUSES:
            try:
                return ask()
            except Lost:
                time.sleep(pause)
        try:
            return ask()
        except Lost as lost:
            raise self.lost(at, lost) from None

    def lost(self, at: int, why: Lost) -> BadData:
        """at: the bytes that came."""
        expected, size = "a file that can be read", self._server.facts().size if at else None
        if at:
            expected = "the whole file" if size is None else f"{size:,} bytes"
        found = f"{at:,} and then {why}" if at else str(why)
        return BadData(str(self), expected=expected, found=found, remedy=AGAIN)

    def _fetch(self) -> None:
        """The whole file, into one without a name."""
        digest, size, known_by = blake2b(digest_size=16), 0, self._server.facts().known_by
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as made, self.open() as stream:
            while block := stream.read(BUFFER):
                made.write(block)
                digest.update(block)
                size += len(block)
            made.flush()
            self._server = Copy(made, Facts(size, known_by or digest.hexdigest()))


class _Forward(io.RawIOBase):
    """The head, then what follows it, in as many connections as it takes."""

    def __init__(self, file: Remote) -> None:
        self._file, self._at = file, 0
        self._body: Body | None = None

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._drop()
        super().close()

    def _drop(self) -> None:
        if self._body:
            self._body.close()
            self._body = None

    def readinto(self, buffer: Any) -> int:
        head = self._file.head
        if self._at < len(head) or len(head) < HEAD:
            piece = head[self._at : self._at + len(buffer)]
        else:
            piece = self._further(len(buffer))
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def _further(self, most: int) -> bytes:
        pauses = iter(PAUSES)
        why = Lost()
        while True:
            try:
                return self._next(most)
            except NoParts:
                raise self._file.lost(self._at, Lost(f"{why}; the server cannot go on from there")) from None
            except Lost as lost:
                why = lost
                self._drop()
            if (pause := next(pauses, None)) is None:
                raise self._file.lost(self._at, why)
            time.sleep(pause)

    def _next(self, most: int) -> bytes:
        if self._at == self._file.size:
            return b""
        if self._body is None:
            self._body = self._file.body(self._at)
        piece = self._body.read(most)
        if not piece and self._file.size is not None:
            raise Lost
        return piece


class _Anywhere(io.RawIOBase):
    def __init__(self, file: Remote, size: int) -> None:
        self._file, self._size, self._at = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(offset + (0, self._at, self._size)[whence], 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        piece = self._file.part(self._at, stop) if stop > self._at else b""
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


File = Path | Remote
