"""A model's fingerprint: one number of every byte that it is made of.

Every byte, as an edit may be anywhere: a hundred numbers in the middle of an embedding make another model. SHA-256, as
processors have instructions for it: 1.8 GB a second on a free core (AMD EPYC), which is 5 s for 16 GB on two of them.
While others worked on both cores: 1.0 GB a second from the file cache, 16 s for 16 GB; 0.6 from the disk, 26 s.

Each file is read once: its digest is kept in the cache folder for as long as the file's size, times, inode and device
are the same. Its ctime is among them: a program may set back the time of a change of the content, never this one.
"""

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field
from typing_extensions import TypedDict

from mlxtune.errors import BadModel, MlxtuneError
from mlxtune.events import Event, Preparing
from mlxtune.models.weights import FETCH_AGAIN, files
from mlxtune.settings import STRICT
from mlxtune.storage import sealed
from mlxtune.storage.files import cache_folder

PART_BYTES = 64 << 20  # that one thread hashes; the digest of a file is that of its parts' digests
READ_BYTES = 1 << 20
MOST_THREADS = 8
QUIET_SECONDS = 1.0  # of reading before progress is told
SETTLED_SECONDS = 2.0  # since the last change: a file system may give two changes in less than this the same time
KEPT = 512  # digests


class Kept(TypedDict):
    """What is kept of a file: what told that it is in this state, and the SHA-256 of its bytes."""

    __pydantic_config__ = STRICT  # type: ignore[misc]  # as pydantic's documentation has it

    changed: list[int]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class File(NamedTuple):
    """A weight file in one state. changed: what tells that it is in another."""

    path: Path
    n_bytes: int
    changed: tuple[int, ...]

    @property
    def kept_in(self) -> Path:
        return cache_folder() / "fingerprints" / f"{hashlib.sha256(os.fsencode(self.path)).hexdigest()[:32]}.json"

    @property
    def is_settled(self) -> bool:
        """Whether a change from now on would be seen."""
        return time.time() - max(self.changed[:2]) / 1e9 > SETTLED_SECONDS


def fingerprint(folder: Path, tell: Callable[[Event], None] = lambda _: None) -> str:
    """A SHA-256 that changes when the model does, in hexadecimal: of config.json, tokenizer.json and all weight files.

    It is the same wherever the folder is. tell: is told of the progress where it takes more than a second.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(len(content).to_bytes(8, "little") + content)
    weights = [_file(path) for path in files(folder)]
    known = {file: kept for file in weights if (kept := _kept(file))}
    known |= _read([file for file in weights if file not in known], tell)
    for file in weights:
        digest.update(bytes.fromhex(known[file]))
    return digest.hexdigest()


def _file(path: Path) -> File:
    found = path.stat()
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return File(path.resolve(), found.st_size, (*times, found.st_size, found.st_ino, found.st_dev))


def _read(unknown: list[File], tell: Callable[[Event], None]) -> dict[File, str]:
    """Hash files, several parts at a time, and keep the digests of those whose next change will be seen."""
    began, done, total = time.monotonic(), 0, sum(file.n_bytes for file in unknown)
    settled = {file for file in unknown if file.is_settled}
    found = {}
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "mlxtune-hash") as threads:
        for file in unknown:
            whole = hashlib.sha256(file.n_bytes.to_bytes(8, "little"))
            for part in threads.map(partial(_part, file.path), range(0, file.n_bytes, PART_BYTES)):
                whole.update(part)
                done = min(done + PART_BYTES, total)
                if time.monotonic() - began > QUIET_SECONDS:
                    tell(Preparing("reading all of the model's weights, once", done, total))
            found[file] = whole.hexdigest()
            if file in settled and _file(file.path) == file:
                _keep(file, found[file])
    return found


def _part(path: Path, begin: int) -> bytes:
    """The digest of one part of a file. Raises BadModel for a disk that cannot read it."""
    digest, buffer, left = hashlib.sha256(), bytearray(READ_BYTES), PART_BYTES
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            while left and (length := file.readinto(memoryview(buffer)[:left])):
                digest.update(memoryview(buffer)[:length])
                left -= length
    except OSError as fault:
        found = fault.strerror or str(fault)
        raise BadModel(str(path), expected="a file that can be read", found=found, remedy=FETCH_AGAIN) from fault
    return digest.digest()


def _kept(file: File) -> str | None:
    """The digest that is kept of a file in this state; None where there is none, or where it is damaged."""
    try:
        kept = sealed.read(file.kept_in, Kept, FETCH_AGAIN)
    except MlxtuneError:
        return None
    return kept["sha256"] if kept["changed"] == list(file.changed) else None


def _keep(file: File, digest: str) -> None:
    """Keep a digest, whole or not at all, and the newest of all. A folder that cannot be written to keeps none."""
    target = file.kept_in
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        sealed.write(target, {"changed": list(file.changed), "sha256": digest})
        for old in sorted(target.parent.iterdir(), key=lambda each: each.stat().st_mtime_ns)[:-KEPT]:
            old.unlink()
