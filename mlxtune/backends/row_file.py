"""Hidden states of rows in files under a cache folder: made once, whole or absent, checked when they are read.

KEY/                        whole: made, flushed, and put in its place by a rename
KEY.work/                   in the making, by the one process that has the lock; a kill loses little of it
KEY.lock                    the writer's lock, which goes with its process
  about.json                {"stage": layers that are done, "rows": through the next stage, "sums": by stage, "digest"}
  hidden-000012.bin         the hidden states of all rows before layer 12, row after row

A stage reads one file and writes another, so that a stage that was cut short loses nothing. KEY is a hash of everything
that the content depends on: what changes makes another folder. A row's sum is its CRC-32, which a thread takes
while it reads ahead: a row of 2,048 tokens of a width of 4,096 in 16 bits then costs a step 1.7 ms, where one that was
not read ahead costs 10 (a busy core of an AMD EPYC; a copy alone is 0.8). Any number of processes read a whole folder.
It is read with `pread`, not mapped: a process dies of a mapped file that is cut short or that its disk cannot read, and
of one that a full disk has no room for.
"""

import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from mlxtune.data.digest import digest
from mlxtune.storage import sealed

ABOUT = "about.json"
LAYERS_AT_ONCE = 4  # of a stage: how many are in memory
KEPT = 2  # folders of one model: two runs that alternate do not drop each other's
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0  # without a sign of life of the process that has the lock
PART_BYTES = 1 << 20  # that are read at once
Tokens = NDArray[np.int32]
Buffer = bytes
Elements = NDArray[Any]  # float32, float16, or the words of bfloat16


class Damaged(Exception):
    """What is on the disk is not what was written."""


class Handle:
    """A file that is open for as long as anything refers to it: a thread may read it while another lets go of it."""

    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags, 0o666)
        self.writes = flags != os.O_RDONLY

    def __del__(self) -> None:
        with suppress(AttributeError):  # it could not be opened
            os.close(self.number)

    @property
    def state(self) -> os.stat_result:
        return os.fstat(self.number)


class RowFile:
    """The hidden states of distinct rows of tokens. dtype: of the elements; width: of a token's hidden state."""

    def __init__(self, folder: Path, rows: Sequence[Tokens], width: int, dtype: np.dtype[Any]) -> None:
        self.folder, self.width, self.dtype = folder, width, dtype
        self.work = _beside(folder, ".work")
        self.lengths = [len(tokens) for tokens in rows]
        self.ends = np.cumsum(self.lengths).tolist()
        self.numbers = {digest(tokens): number for number, tokens in enumerate(rows)}
        self._files: dict[int, Handle] = {}  # by stage
        self._sums: dict[int, NDArray[np.uint32]] = {}
        self._checked: set[tuple[Handle, int]] = set()  # files and rows that were read ahead and found whole
        self._beat = 0.0

    @staticmethod
    def key(parts: dict[str, Any], rows: Sequence[Tokens]) -> str:
        """The folder's name: of settings and fingerprints, and of the rows in their order."""
        hashed = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for tokens in rows:
            hashed.update(digest(tokens))
        return hashed.hexdigest()[:24]

    @property
    def bytes(self) -> int:
        """Of one stage's file."""
        return int(self.ends[-1] * self.width * self.dtype.itemsize)

    def is_whole(self, stage: int) -> bool:
        """Whether the states before this layer are there; they are then open, and stay so whoever deletes them."""
        found, rows, sums = self._about(self.folder)
        if (found, rows) != (stage, 0) or not self._open(self.folder, stage):
            return False
        self._sums, self._checked = sums, set()
        return True

    def is_renewed(self, stage: int) -> bool:
        """Whether another process has made the file since it was looked for, or since it was found to be damaged.

        Where it is still the damaged one, that is let go of.
        """
        held, path = self._files.get(stage), _path(self.folder, stage)
        if held is not None and path.exists() and os.path.samestat(held.state, path.stat()):
            self._set_aside()
            return False
        return self.is_whole(stage)

    def read_into(self, stage: int, tokens: Tokens, out: Elements) -> None:
        """A row's hidden states before layer `stage`. out: (tokens, width). Raises Damaged, KeyError."""
        number, file, flat = self.numbers[digest(tokens)], self._files[stage], out.reshape(-1).view(np.uint8)
        is_checked, done, found = (file, number) in self._checked, 0, 0
        for part in self._parts(file, number):
            flat[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done, found = done + len(part), 0 if is_checked else zlib.crc32(part, found)
        if not is_checked and found != self._sums[stage][number]:
            raise Damaged
        self._checked.discard((file, number))

    def read_ahead(self, stage: int, tokens: Tokens) -> None:
        """Let the system bring a row into memory, and check it: this thread waits, without the interpreter."""
        with suppress(Damaged, KeyError):  # whoever reads it will see; it may be in the making
            number, file, found = self.numbers[digest(tokens)], self._files[stage], 0
            for part in self._parts(file, number):
                found = zlib.crc32(part, found)
            if found == self._sums[stage][number]:
                self._checked.add((file, number))

    def _offset(self, number: int) -> int:
        return int((self.ends[number] - self.lengths[number]) * self.width * self.dtype.itemsize)

    def _parts(self, file: Handle, number: int) -> Iterator[Buffer]:
        """The bytes of a row. Raises Damaged for a file that ends before, or that the disk cannot read."""
        place, end = self._offset(number), self.ends[number] * self.width * self.dtype.itemsize
        while place < end:
            try:
                part = os.pread(file.number, min(PART_BYTES, end - place), place)
            except OSError as fault:
                raise Damaged from fault
            if not part:
                raise Damaged
            place += len(part)
            yield part

    @contextmanager
    def writing(self, wait: Callable[[], None]) -> Iterator[None]:
        """Be the one that writes. wait: is called every second while another process is.

        Where that gives no sign of life, or the file system has no locks, this process writes a folder of its own.
        Raises OSError for a cache folder that cannot be written to.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        lock, heard, since = filelock.FileLock(_beside(self.folder, ".lock")), 0, time.monotonic()
        own = _beside(self.folder, ".work")
        while True:
            try:
                lock.acquire(timeout=POLL_SECONDS)
                break
            except filelock.Timeout:
                beat = own.stat().st_mtime_ns if own.exists() else 0
                heard, since = beat, since if beat == heard else time.monotonic()
            except NotImplementedError:
                since = 0.0
            if time.monotonic() - since > PATIENCE_SECONDS:
                own = _beside(self.folder, f".work-{os.getpid()}")
                break
            wait()
        self.work = own
        try:
            self.work.mkdir(exist_ok=True)
            yield
        except OSError:
            shutil.rmtree(self.work, ignore_errors=True)  # a full disk has its room back
            raise
        finally:
            self._files = {stage: file for stage, file in self._files.items() if not file.writes}
            with suppress(OSError):  # there is something in it
                self.work.rmdir()
            lock.release()

    def begun(self) -> tuple[int, int]:
        """Of what is in the making: layers that all rows are through, and rows that are through the stage after."""
        self._files = {}  # of a damaged file
        stage, rows, self._sums = self._about(self.work)
        if stage and not self._open(self.work, stage):
            return self.begin()
        return stage, rows

    def begin(self) -> tuple[int, int]:
        """As `begun`, of nothing."""
        self._files, self._sums = {}, {}
        return 0, 0

    def write(self, stage: int, number: int, hidden: Elements) -> None:
        """The hidden states of the row with this number."""
        if stage not in self._files:
            self._files[stage] = self._made(stage)
            self._sums.setdefault(stage, np.zeros(len(self.lengths), np.uint32))
        flat = np.ascontiguousarray(hidden).reshape(-1).view(np.uint8)
        done, offset = 0, self._offset(number)
        while done < len(flat):
            done += os.pwrite(self._files[stage].number, flat[done:].data, offset + done)
        self._sums[stage][number] = zlib.crc32(flat.data)
        if time.monotonic() - self._beat > POLL_SECONDS:
            self._beat = time.monotonic()
            os.utime(self.work)

    def note(self, stage: int, rows: int) -> None:
        """Say, once it is on the disk, how far the work is. The file of the stage before is not needed after it."""
        for file in self._files.values():
            if file.writes:
                os.fsync(file.number)
        if rows == 0:
            self._sums = {number: sums for number, sums in self._sums.items() if number == stage}
        sums = {str(number): sums.tobytes().hex() for number, sums in self._sums.items()}
        sealed.write(self.work / ABOUT, {"stage": stage, "rows": rows, "sums": sums})
        if rows == 0:
            for path in self.work.glob("hidden-*.bin"):
                if path != _path(self.work, stage):
                    path.unlink()
            self._files = {number: file for number, file in self._files.items() if number == stage}

    def finish(self, stage: int) -> bool:
        """Put what was made in its place, and open it. What was there is damaged, or the same."""
        if self.folder.exists():
            self._set_aside()
        self.work.rename(self.folder)
        return self.is_whole(stage)

    def _set_aside(self) -> None:
        aside = _beside(self.folder, f".damaged-{os.getpid()}")
        self.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _made(self, stage: int) -> Handle:
        """The stage's file in the work folder, of its full size, open to be written to."""
        file = Handle(_path(self.work, stage), os.O_RDWR | os.O_CREAT)
        os.ftruncate(file.number, self.bytes)
        return file

    def _open(self, folder: Path, stage: int) -> bool:
        try:
            file = Handle(_path(folder, stage), os.O_RDONLY)
        except OSError:
            return False
        self._files[stage] = file
        return file.state.st_size == self.bytes

    def _about(self, folder: Path) -> tuple[int, int, dict[int, NDArray[np.uint32]]]:
        """What a folder says of itself; nothing where that is damaged."""
        try:
            about = json.loads((folder / ABOUT).read_text())
            stage, rows = int(about["stage"]), int(about["rows"])
            found = {int(key): np.frombuffer(bytes.fromhex(text), np.uint32) for key, text in about["sums"].items()}
            sound = about[sealed.KEY] == sealed.digest(about) and {len(sums) for sums in found.values()} <= {
                len(self.lengths)
            }
            sound = sound and (not stage or stage in found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return 0, 0, {}
        return (stage, rows, {key: sums.copy() for key, sums in found.items()}) if sound else (0, 0, {})


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def _path(folder: Path, stage: int) -> Path:
    return folder / f"hidden-{stage:06d}.bin"


def drop_older(folder: Path) -> None:
    """Of the files of one model keep this and the one used last before: what changed is seldom asked for again."""
    with suppress(OSError):
        os.utime(folder)  # it is used now
        others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
        for other in sorted(others, key=lambda each: each.stat().st_mtime)[: -(KEPT - 1)]:
            _drop(other)


def _drop(folder: Path) -> None:
    """Delete a folder, unless a process is writing it. Those that read it have it open."""
    lock = filelock.FileLock(folder.with_suffix(".lock"), timeout=0)
    with suppress(OSError, filelock.Timeout, NotImplementedError), lock:
        shutil.rmtree(folder, ignore_errors=True)
